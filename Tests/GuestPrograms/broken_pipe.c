// Death by SIGPIPE: 128 + 13.
// status: 141
#include <unistd.h>
int main(void) {
  int ends[2];
  if (pipe(ends)) return 1;
  close(ends[0]);
  return (int)write(ends[1], "x", 1);
}
