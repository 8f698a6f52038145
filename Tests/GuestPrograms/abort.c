// Death by abort(): 128 + SIGABRT.
// status: 134
#include <stdlib.h>
int main(void) { abort(); }
