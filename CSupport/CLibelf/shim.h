// What it takes to judge a program's file.
#include <libelf.h>
#include <gelf.h>
#include <sys/xattr.h>
