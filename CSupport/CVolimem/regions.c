// Regions: what the page-fault handler and the marks know of pools.
//
// Slots are taken and freed under `region_lock`, by the program's threads, inside the guest or not;
// a slot's list is appended to by any vCPU's fault handler and emptied by the thread that has the
// pool's gate.
//
// A page is granted in this order, by fault handlers and by marks, with a take or an arm of another
// thread between any two steps:
//
//     LISTED set, by one alone      the others wait for its next steps
//     a place in the list           from here a take waits for the place to be filled
//     write permission              so whoever wrote by it finds the page in the next take
//     the place is filled
//
// An arm in between takes LISTED away, and the page may get a second place: takes allow for that.
#include "internal.h"

struct cvm_region cvm_regions[REGION_COUNT];
struct cvm_region *cvm_regions_end = cvm_regions;
static cvm_lock region_lock;
_Static_assert(sizeof(struct cvm_region) == 64, "entry.S walks the regions");

struct cvm_region *cvm_region_create(uint64_t address, uint64_t page_count, uint64_t *entries,
                                     uint32_t *list, uint64_t list_capacity) {
  struct cvm_region *region = NULL;
  lock(&region_lock);
  for (int i = 0; i < REGION_COUNT && region == NULL; i++)
    if (cvm_regions[i].page_count == 0)
      region = &cvm_regions[i];
  if (region != NULL) {
    *region = (struct cvm_region){
        .first_page = address >> PAGE_SHIFT,
        .entries = entries,
        .list = list,
        .list_mask = list_capacity - 1,
    };
    __atomic_store_n(&region->page_count, page_count, __ATOMIC_RELEASE);
    if (region >= cvm_regions_end)
      __atomic_store_n(&cvm_regions_end, region + 1, __ATOMIC_RELEASE);
  }
  unlock(&region_lock);
  return region;
}

void regions_forget(void) {
  for (struct cvm_region *region = cvm_regions; region < cvm_regions_end; region++)
    *region = (struct cvm_region){.page_count = 0};
  cvm_regions_end = cvm_regions;
  region_lock = 0;
}

void cvm_region_destroy(struct cvm_region *region) {
  __atomic_store_n(&region->page_count, 0, __ATOMIC_RELEASE);
}

void cvm_region_mark_in(struct cvm_region *region, uint64_t *marks, uint64_t first_mark) {
  region->first_mark = first_mark;
  __atomic_store_n(&region->marks, marks, __ATOMIC_RELEASE);
}

void cvm_region_grant(struct cvm_region *region, uint32_t page) {
  uint64_t *entry = &region->entries[page];
  for (;;) {
    uint64_t before = __atomic_fetch_or(entry, CVM_LISTED, __ATOMIC_SEQ_CST);
    if (!(before & CVM_LISTED))
      break;
    if (before & CVM_WRITABLE)
      return cvm_entry_or(entry, CVM_DIRTY);
    RAW(SYS_sched_yield);  // somebody is between two steps
  }
  uint64_t index = __atomic_fetch_add(&region->listed, 1, __ATOMIC_SEQ_CST);
  cvm_entry_or(entry, CVM_WRITABLE | CVM_DIRTY);
  __atomic_store_n(&region->list[index & region->list_mask], page + 1, __ATOMIC_RELEASE);
}

uint32_t cvm_region_take(struct cvm_region *region, uint64_t index) {
  uint32_t *place = &region->list[index & region->list_mask];
  uint32_t page;
  while ((page = __atomic_exchange_n(place, 0, __ATOMIC_ACQ_REL)) == 0)
    RAW(SYS_sched_yield);
  return page - 1;
}

#ifdef VOLIP_LAB
__attribute__((visibility("hidden"))) _Atomic int64_t cvm_faults_left;  // 0: none for long
#endif

void cvm_stop_in_fault(int64_t number) {
#ifdef VOLIP_LAB
  cvm_faults_left = number;
#else
  (void)number;
#endif
}
