// args: x
// What the kernel passes on the stack: the auxiliary vector agrees with itself and with the system calls.
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
  const unsigned char *bytes = (const unsigned char *)getauxval(AT_RANDOM);
  int zeros = 0;
  for (int i = 0; i < 16; i++) zeros += bytes[i] == 0;
  const Elf64_Phdr *headers = (const Elf64_Phdr *)getauxval(AT_PHDR);
  int loads = 0;
  for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++) loads += headers[i].p_type == PT_LOAD;
  printf("argc %d last %d\n", argc, argv[argc] == NULL);
  printf("random %d\n", zeros < 8);
  printf("loads %d\n", loads > 0);
  printf("page %lu entry size %lu\n", getauxval(AT_PAGESZ), getauxval(AT_PHENT));
  printf("uid %d gid %d secure %lu\n", getauxval(AT_UID) == getuid(), getauxval(AT_GID) == getgid(), getauxval(AT_SECURE));
  printf("platform %s\n", (const char *)getauxval(AT_PLATFORM));
  printf("execfn %d\n", strrchr((const char *)getauxval(AT_EXECFN), '/') != NULL);
  printf("stack aligned %d\n", (unsigned long)__builtin_frame_address(0) % 16 == 0);
  return 0;
}
