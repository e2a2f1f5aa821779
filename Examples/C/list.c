// A list that outlives its process.
//
//   list POOL COUNT   pushes COUNT numbers, each in a section of its own, and prints each when it
//                     is durable; COUNT 0 goes on until it is killed
//   list POOL         prints how many there are, and whether the list and the heap are whole
//
//   cc list.c $(pkg-config --cflags --libs volip) -o list
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <volip.h>

struct node {
  long value;
  struct node *next;
};

struct list {
  long count;
  struct node *first;
};

static void *checked(void *address) {
  if (address == NULL) {
    fprintf(stderr, "list: %s\n", volip_error_text());
    exit(1);
  }
  return address;
}

static void check(volip_code code) {
  if (code != VOLIP_OK) {
    fprintf(stderr, "list: %s\n", volip_error_text());
    exit(1);
  }
}

static void push(struct list *list, long value) {
  struct node *node = checked(volip_allocate(sizeof *node));
  *node = (struct node){.value = value, .next = list->first};
  list->first = node;
  list->count++;
}

// The numbers go down from the count to 1, each in a block, and beside them is the root's block.
static bool is_whole(volip_pool *pool, const struct list *list) {
  long expected = list->count;
  for (const struct node *node = list->first; node != NULL; node = node->next)
    if (node->value != expected--)
      return false;
  uint64_t blocks;
  check(volip_check(pool, &blocks, NULL));
  return expected == 0 && blocks == (uint64_t)list->count + 1;
}

int main(int count, char **arguments) {
  if (count < 2) {
    fprintf(stderr, "usage: list POOL [COUNT]\n");
    return 64;
  }
  volip_pool *pool = checked(volip_pmap(arguments[1], 64 << 20, NULL));
  check(volip_pstart(pool));
  struct list *list = checked(volip_root(pool, "list", sizeof *list, "list 1"));
  check(volip_pend());

  if (count == 2) {
    printf("%ld %s\n", list->count, is_whole(pool, list) ? "whole" : "torn");
  } else {
    long left = atol(arguments[2]);
    do {
      check(volip_pstart(pool));
      push(list, list->count + 1);
      check(volip_pend());
      printf("%ld\n", list->count);
      fflush(stdout);
    } while (--left != 0);
  }
  check(volip_close(pool));
  return 0;
}
