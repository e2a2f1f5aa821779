// lmdb-writer FOLDER [show]: transactions with MDB_WRITEMAP that give many keys the same number,
// and say it when they are committed; killed by the script. `show` prints the number, if all keys
// agree.
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS 200

static void check(int error, const char *what) {
  if (error != 0) {
    fprintf(stderr, "%s: %s\n", what, mdb_strerror(error));
    exit(2);
  }
}

static long show(MDB_env *environment, MDB_dbi table) {
  MDB_txn *transaction;
  check(mdb_txn_begin(environment, NULL, MDB_RDONLY, &transaction), "begin");
  long first = 0;
  for (int i = 0; i < KEYS; i++) {
    char name[32];
    snprintf(name, sizeof name, "key-%d", i * 7919 % KEYS);
    MDB_val key = {strlen(name), name}, value;
    int error = mdb_get(transaction, table, &key, &value);
    long number = 0;
    if (error == 0)
      memcpy(&number, value.mv_data, sizeof number);
    else if (error != MDB_NOTFOUND)
      check(error, "get");
    if (i == 0)
      first = number;
    else if (number != first) {
      fprintf(stderr, "%s has %ld, others have %ld\n", name, number, first);
      exit(3);
    }
  }
  mdb_txn_abort(transaction);
  return first;
}

int main(int count, char **arguments) {
  MDB_env *environment;
  MDB_dbi table;
  MDB_txn *transaction;
  check(mdb_env_create(&environment), "create");
  check(mdb_env_set_mapsize(environment, 16 << 20), "size");
  check(mdb_env_open(environment, arguments[1], MDB_WRITEMAP, 0600), "open");
  check(mdb_txn_begin(environment, NULL, 0, &transaction), "begin");
  check(mdb_dbi_open(transaction, NULL, 0, &table), "table");
  check(mdb_txn_commit(transaction), "commit");
  long number = show(environment, table);
  printf("%ld\n", number), fflush(stdout);
  while (count < 3) {
    number++;
    check(mdb_txn_begin(environment, NULL, 0, &transaction), "begin");
    for (int i = 0; i < KEYS; i++) {
      char name[32], text[300] = "";
      snprintf(name, sizeof name, "key-%d", i);
      memcpy(text, &number, sizeof number);
      MDB_val key = {strlen(name), name}, value = {20 + (size_t)(number * (i + 1)) % 250, text};
      check(mdb_put(transaction, table, &key, &value, 0), "put");
    }
    check(mdb_txn_commit(transaction), "commit");
    printf("%ld\n", number), fflush(stdout);
  }
  return 0;
}
