// How signals queue: in order, up to RLIMIT_SIGPENDING, a timer's always; whose come first; what a program may say of its own;
// alternate stacks that disarm themselves.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

static const char *name(long result) {
  if (result >= 0) return "OK";
  switch (errno) {
  case EAGAIN: return "EAGAIN";
  case EINVAL: return "EINVAL";
  case EPERM: return "EPERM";
  case ESRCH: return "ESRCH";
  case ENOMEM: return "ENOMEM";
  default: return "other";
  }
}
#define SAY(what, call) printf("%s: %s\n", what, name(call))

static sigset_t all;
static siginfo_t information;

// Without the C library, which changes the code of what tkill sent.
static int take(void) {
  struct timespec none = {0};
  return (int)syscall(SYS_rt_sigtimedwait, &all, &information, &none, 8);
}

static void many(void) {
  int queued = 0, taken = 0, inOrder = 1;
  for (int i = 0; i < 1000; i++) queued += sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i}) == 0;
  for (; take() > 0; taken++) inOrder &= information.si_value.sival_int == taken;
  printf("queued %d taken %d in order %d\n", queued, taken, inOrder);
}

static void limited(void) {
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3, .sigev_value.sival_int = 7};
  timer_t timer, other;
  SAY("timer", timer_create(CLOCK_MONOTONIC, &event, &timer));
  struct rlimit before, none;
  getrlimit(RLIMIT_SIGPENDING, &before);
  none = before;
  none.rlim_cur = 0;
  SAY("limit", setrlimit(RLIMIT_SIGPENDING, &none));
  SAY("sigqueue", sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 1}));
  SAY("sigqueue, standard", sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 2}));
  SAY("kill", kill(getpid(), SIGRTMIN + 2));
  SAY("tgkill", syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGRTMIN + 2));
  SAY("another timer", timer_create(CLOCK_MONOTONIC, &event, &other));
  struct itimerspec setting = {.it_value.tv_nsec = 1};
  timer_settime(timer, 0, &setting, NULL);
  usleep(20000);
  for (int signal; (signal = take()) > 0;) {
    printf("took %s", signal == SIGUSR2 ? "SIGUSR2" : "real-time");
    if (signal != SIGUSR2) printf(" %d", signal - SIGRTMIN);
    printf(" code %d", information.si_code);
    if (information.si_code == SI_TIMER) printf(" value %d", information.si_value.sival_int);
    printf("\n");
  }
  setrlimit(RLIMIT_SIGPENDING, &before);
  SAY("delete", timer_delete(timer));
}

static void order(void) {
  long self = syscall(SYS_gettid);
  sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 1});
  syscall(SYS_tgkill, getpid(), self, SIGUSR2);
  sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 2});
  syscall(SYS_tgkill, getpid(), self, SIGRTMIN);
  for (int signal; (signal = take()) > 0;)
    printf("%s of the %s\n", signal == SIGUSR1 ? "SIGUSR1" : signal == SIGUSR2 ? "SIGUSR2" : "SIGRTMIN",
           information.si_code == SI_TKILL ? "thread" : "process");
}

static int seen[8], count;
static void note(int signal) { seen[count++ & 7] = signal; }

static void delivered(void) {
  struct sigaction action = {.sa_handler = note};
  sigfillset(&action.sa_mask);
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGUSR2, &action, NULL);
  kill(getpid(), SIGUSR1);
  syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  sigprocmask(SIG_SETMASK, &all, NULL);
  printf("delivered %d: own first %d\n", count, seen[0] == SIGUSR2);
}

static void own(void) {
  siginfo_t i = {.si_code = SI_USER};
  long self = syscall(SYS_gettid);
  SAY("as a user to oneself", syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &i));
  printf("%d", take());
  printf(" code %d\n", information.si_code);
  i.si_code = SI_TKILL;
  SAY("as tkill to oneself", syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &i));
  printf("%d", take());
  printf(" code %d\n", information.si_code);
  i.si_code = -77;
  i.si_value.sival_int = 9;
  SAY("to a thread", syscall(SYS_rt_tgsigqueueinfo, getpid(), self, SIGUSR2, &i));
  printf("%d", take());
  printf(" code %d value %d\n", information.si_code, information.si_value.sival_int);
  SAY("no signal", syscall(SYS_rt_tgsigqueueinfo, getpid(), self, 0, &i));
  SAY("bad signal", syscall(SYS_rt_tgsigqueueinfo, getpid(), self, 65, &i));
  SAY("no such thread", syscall(SYS_rt_tgsigqueueinfo, getpid(), 0x3ffffff, SIGUSR2, &i));
  SAY("thread 0", syscall(SYS_rt_tgsigqueueinfo, getpid(), 0, SIGUSR2, &i));
}

static char stack[65536];
static void disarmed(int signal) {
  stack_t now;
  sigaltstack(NULL, &now);
  char here;
  printf("in the handler: on it %d, flags %x size %ld\n", &here > stack && &here < stack + sizeof stack,
         (unsigned)now.ss_flags, (long)now.ss_size);
  stack_t other = {.ss_sp = stack, .ss_size = sizeof stack / 2};
  SAY("set in the handler", sigaltstack(&other, NULL));
}

static void stacks(void) {
  stack_t wanted = {.ss_sp = stack, .ss_size = sizeof stack, .ss_flags = 7}, now;
  SAY("flags 7", sigaltstack(&wanted, NULL));
  wanted.ss_flags = SS_DISABLE | SS_ONSTACK;
  SAY("flags 3", sigaltstack(&wanted, NULL));
  wanted.ss_flags = (int)SS_AUTODISARM;
  SAY("disarms itself", sigaltstack(&wanted, NULL));
  sigaltstack(NULL, &now);
  printf("flags %x\n", (unsigned)now.ss_flags);
  struct sigaction action = {.sa_handler = disarmed, .sa_flags = SA_ONSTACK};
  sigaction(SIGUSR1, &action, NULL);
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, SIGUSR1);
  for (int i = 0; i < 2; i++) {
    kill(getpid(), SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    sigprocmask(SIG_BLOCK, &one, NULL);
    sigaltstack(NULL, &now);
    printf("behind it: flags %x size %ld\n", (unsigned)now.ss_flags, (long)now.ss_size);
  }
  wanted.ss_flags = (int)(SS_AUTODISARM | SS_DISABLE);
  SAY("none", sigaltstack(&wanted, NULL));
  sigaltstack(NULL, &now);
  printf("flags %x\n", (unsigned)now.ss_flags);
}

int main(void) {
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  many();
  limited();
  order();
  delivered();
  own();
  stacks();
  return 0;
}
