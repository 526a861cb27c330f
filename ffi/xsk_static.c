/*
 * What the static libelf and libbpf need to go into a shared object. Debian compiles the archives for
 * executables (PIE): a thread-local variable of libelf and a reference to libc's `stderr` in libbpf
 * cannot be linked here, and libelf.a leaves out the search tree that its own code names. Definitions
 * of the same names take their place; the linker then leaves the archive's out (stderr by --wrap).
 *
 * None of it is ever needed: the ELF files read are those that we carry, nothing is printed, and the
 * tree belongs to elf_getdata_rawchunk, which libbpf does not call (it would not link).
 */
#include <stdio.h>

FILE *__wrap_stderr;

void __libelf_seterrno(int value) { (void)value; }
int elf_errno(void) { return 0; }
const char *elf_errmsg(int error) { (void)error; return "libelf failed"; }
void eu_search_tree_init(void *tree) { (void)tree; }
void eu_search_tree_fini(void *tree, void (*release)(void *)) { (void)tree, (void)release; }
