// Stand-ins for the kernel heap while no module provides one: weak, so that the real functions win.
    .text
    .weak posix_memalign
    .weak free
posix_memalign:
free:
    ud2
