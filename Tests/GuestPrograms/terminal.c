// What a program sees and does of its terminal. The tests give it one (Tests/VMTests/TerminalTests.swift) and type what it asks for;
// without one it says so.
// flavours: glibc-static musl-static glibc-dynamic
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t caught;
static void handler(int number) { caught = number; }

static struct termios original;
static void continued(int number) {
  if (write(1, "continued\n", 10) < 0) _exit(9);
}

static void say(const char *text) {
  if (write(1, text, strlen(text)) < 0) exit(9);
}

static void number(const char *text, long value) {
  char line[100];
  snprintf(line, sizeof line, "%s %ld\n", text, value);
  say(line);
}

static void check(int result, const char *what) {
  if (result < 0) {
    char line[200];
    snprintf(line, sizeof line, "%s: %s\n", what, strerror(errno));
    say(line);
    exit(1);
  }
}

static void catch(int signal_number) {
  struct sigaction action = {.sa_handler = handler};
  sigaction(signal_number, &action, NULL);
}

/// Waits for a signal, which may have come already.
static void await(int signal_number, const sigset_t *outside) {
  while (caught != signal_number) sigsuspend(outside);
  number("signal", caught);
  caught = 0;
}

static void set(tcflag_t off, int minimum, int tenths, int how) {
  struct termios modes = original;
  modes.c_lflag &= ~off;
  modes.c_cc[VMIN] = minimum;
  modes.c_cc[VTIME] = tenths;
  check(tcsetattr(0, how, &modes), "tcsetattr");
}

static void line(void) {
  char text[200];
  ssize_t count = read(0, text, sizeof text - 1);
  check(count, "read");
  text[count] = 0;
  say("[");
  say(text);
  say("]\n");
}

static void bytes(int limit) {
  unsigned char text[20];
  ssize_t count = read(0, text, limit);
  check(count, "read");
  number("bytes", count);
  for (ssize_t i = 0; i < count; i++) number("byte", text[i]);
}

static long milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void size(void) {
  struct winsize size;
  check(ioctl(1, TIOCGWINSZ, &size), "TIOCGWINSZ");
  number("rows", size.ws_row);
  number("columns", size.ws_col);
}

static void everything(void) {
  sigset_t all, outside;
  sigemptyset(&all);
  sigaddset(&all, SIGINT);
  sigaddset(&all, SIGWINCH);
  sigprocmask(SIG_BLOCK, &all, &outside);
  catch(SIGINT);
  catch(SIGWINCH);

  number("modes", original.c_lflag);
  number("input", original.c_iflag);
  number("output", original.c_oflag);
  number("wire", original.c_cflag);
  for (int i = 0; i < NCCS && i < 19; i++) number("character", original.c_cc[i]);

  size();
  say("resize\n");
  await(SIGWINCH, &outside);
  size();

  say("line?\n");
  line();
  say("end of file?\n");
  line();
  say("control-c?\n");
  await(SIGINT, &outside);

  set(ECHO, 1, 0, TCSANOW);
  say("password?\n");
  line();

  set(ICANON | ECHO, 1, 0, TCSADRAIN);
  say("key?\n");
  bytes(10);
  set(ICANON | ECHO | ISIG, 1, 0, TCSADRAIN);
  say("control-c as a key?\n");
  bytes(10);
  set(ICANON | ECHO, 3, 0, TCSADRAIN);
  say("three keys?\n");
  bytes(10);
  set(ICANON | ECHO, 2, 0, TCSADRAIN);
  say("one of two?\n");
  bytes(1);
  struct termios modes;
  check(tcgetattr(0, &modes), "tcgetattr");
  number("VMIN", modes.c_cc[VMIN]);

  set(ICANON | ECHO, 0, 2, TCSADRAIN);
  long before = milliseconds();
  bytes(10);
  long spent = milliseconds() - before;
  say(spent >= 190 && spent < 5000 ? "the time was waited for\n" : "another time\n");
  set(ICANON | ECHO, 0, 0, TCSADRAIN);
  bytes(10);
  say("a key that is looked for?\n");
  for (;;) {
    char key;
    ssize_t count = read(0, &key, 1);
    check(count, "read");
    if (count == 1) {
      number("found", key);
      break;
    }
    poll(NULL, 0, 5);
  }
  set(ICANON | ECHO, 1, 0, TCSADRAIN);
  say("a key that is polled for?\n");
  struct pollfd wait = {.fd = 0, .events = POLLIN};
  number("poll", poll(&wait, 1, -1));
  int waiting = 0;
  check(ioctl(0, FIONREAD, &waiting), "FIONREAD");
  number("waiting", waiting);
  bytes(10);
  say("a key and then no more?\n");
  set(ICANON | ECHO, 5, 1, TCSADRAIN);
  bytes(10);

  say("junk?\n");
  do {
    check(ioctl(0, FIONREAD, &waiting), "FIONREAD");
    poll(NULL, 0, 5);
  } while (waiting < 4);
  set(ECHO, 1, 0, TCSAFLUSH);
  say("no junk?\n");
  line();

  set(0, 1, 0, TCSANOW);
  int tty = open("/dev/tty", O_RDWR);
  check(tty, "/dev/tty");
  number("isatty", isatty(tty));
  check(write(tty, "to the terminal\n", 16), "write");
  say("end\n");
}

/// Signals that come all the time interrupt no change of the modes.
static volatile sig_atomic_t signals;
static void count(int number) { signals++; }

static int toggle(void) {
  struct sigaction action = {.sa_handler = count};
  sigaction(SIGINT, &action, NULL);
  struct termios raw = original, lines = original;
  raw.c_lflag &= ~(ICANON | ECHO | ISIG);
  raw.c_cc[VMIN] = raw.c_cc[VTIME] = 0;
  lines.c_lflag &= ~ECHO;
  long interrupted = 0, isOver = 0;
  say("ready\n");
  while (!isOver) {
    if (tcsetattr(0, TCSANOW, &lines)) interrupted++;
    for (int i = 0; i < 200; i++) getpid();
    if (tcsetattr(0, TCSANOW, &raw)) interrupted++;
    char text[100];
    ssize_t length = read(0, text, sizeof text);
    if (length > 0 && memchr(text, 'q', length)) isOver = 1;
  }
  tcsetattr(0, TCSANOW, &original);
  number("interrupted", interrupted);
  say(signals > 0 ? "some came\n" : "none came\n");
  return 8;
}

int main(int count, char **arguments) {
  if (!isatty(0)) {
    number("no terminal", isatty(1));
    number("error is that of no terminal", tcgetattr(0, &original) < 0 && errno == ENOTTY);
    number("nor has it a size", ioctl(1, TIOCGWINSZ, &original) < 0 && errno == ENOTTY);
    return 0;
  }
  check(tcgetattr(0, &original), "tcgetattr");
  const char *what = count > 1 ? arguments[1] : "";
  if (!strcmp(what, "leave")) {
    // Leaves the terminal as no shell wants it, and waits for its end or not.
    struct termios raw = original;
    cfmakeraw(&raw);
    check(tcsetattr(0, TCSANOW, &raw), "tcsetattr");
    say("raw\r\n");
    if (count > 2) signal(SIGTERM, SIG_IGN);
    if (count > 2) pause();
    return 5;
  }
  if (!strcmp(what, "toggle")) return toggle();
  if (!strcmp(what, "stay")) {
    // A key at a time, through stops.
    set(ICANON | ECHO, 1, 0, TCSANOW);
    // It may come before the read as well as within it.
    struct sigaction action = {.sa_handler = continued, .sa_flags = SA_RESTART};
    sigaction(SIGCONT, &action, NULL);
    char key = 0;
    while (key != 'q') {
      say("ready\n");
      while (read(0, &key, 1) < 0 && errno == EINTR) {
      }
      number("key", key);
    }
    set(0, 1, 0, TCSANOW);
    return 6;
  }
  everything();
  return 7;
}
