// The smallest program that says something: what start-up is measured with.
#include <unistd.h>

int main(void) { return write(1, "hello\n", 6) == 6 ? 0 : 1; }
