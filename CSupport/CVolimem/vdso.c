// The vDSO in the guest: its functions read the kernel's time page with the time stamp counter,
// which is right where the guest's counter is the host's; getcpu reads a descriptor that the guest
// has not.
//
// Functions that a guest cannot run are replaced by the system call of the same name, in a private
// copy of the vDSO's pages which only the guest's page table shows. libelf finds them.
#define _GNU_SOURCE
#include "internal.h"

#include <elf.h>
#include <errno.h>
#include <gelf.h>
#include <libelf.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

struct replacement {
  const char *symbol;
  int call;
  bool is_clock;
};

static const struct replacement replacements[] = {
    {"__vdso_getcpu", SYS_getcpu, false},
    {"__vdso_clock_gettime", SYS_clock_gettime, true},
    {"__vdso_clock_getres", SYS_clock_getres, true},
    {"__vdso_gettimeofday", SYS_gettimeofday, true},
    {"__vdso_time", SYS_time, true},
};

// mov $call, %eax; syscall; ret
static void write_call(char *code, int call) {
  const uint8_t bytes[] = {0xb8, (uint8_t)call, (uint8_t)(call >> 8), 0, 0, 0x0f, 0x05, 0xc3};
  memcpy(code, bytes, sizeof bytes);
}

static void replace(char *copy, size_t bytes, const GElf_Sym *symbol, const char *name,
                    bool replace_clocks) {
  for (size_t i = 0; i < sizeof replacements / sizeof replacements[0]; i++)
    if (strcmp(name, replacements[i].symbol) == 0 && symbol->st_value + 8 <= bytes &&
        symbol->st_size >= 8 && (replace_clocks || !replacements[i].is_clock))
      write_call(copy + symbol->st_value, replacements[i].call);
}

static int replace_all(char *copy, size_t bytes, bool replace_clocks) {
  if (elf_version(EV_CURRENT) == EV_NONE)
    return ENOTSUP;
  Elf *elf = elf_memory(copy, bytes);
  if (elf == NULL)
    return ENOTSUP;
  int result = ENOENT;
  Elf_Scn *section = NULL;
  while ((section = elf_nextscn(elf, section)) != NULL) {
    GElf_Shdr header;
    if (gelf_getshdr(section, &header) == NULL || header.sh_type != SHT_DYNSYM ||
        header.sh_entsize == 0)
      continue;
    Elf_Data *data = elf_getdata(section, NULL);
    for (size_t i = 0; data != NULL && i < header.sh_size / header.sh_entsize; i++) {
      GElf_Sym symbol;
      if (gelf_getsym(data, (int)i, &symbol) == NULL)
        continue;
      const char *name = elf_strptr(elf, header.sh_link, symbol.st_name);
      if (name != NULL)
        replace(copy, bytes, &symbol, name, replace_clocks);
      result = 0;
    }
  }
  elf_end(elf);
  return result;
}

// End of the ELF image: its section headers come last.
static size_t image_bytes(const char *image) {
  const Elf64_Ehdr *head = (const Elf64_Ehdr *)image;
  size_t bytes = head->e_shoff + (size_t)head->e_shnum * head->e_shentsize;
  return (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

int vdso_prepare(bool replace_clocks) {
  const char *image = (const char *)getauxval(AT_SYSINFO_EHDR);
  if (image == NULL)
    return 0;
  size_t bytes = image_bytes(image);
  char *copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED)
    return errno;
  memcpy(copy, image, bytes);
  int error = replace_all(copy, bytes, replace_clocks);
  if (error == 0 && mprotect(copy, bytes, PROT_READ | PROT_EXEC) != 0)
    error = errno;
  for (size_t offset = 0; error == 0 && offset < bytes; offset += PAGE_BYTES)
    error = machine_alias((uint64_t)image + offset, (uint64_t)copy + offset);
  return error;
}
