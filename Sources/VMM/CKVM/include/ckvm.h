// The KVM interface as Swift can import it: ioctl numbers as constants, ioctl as static-inline calls.
#pragma once
#include <linux/kvm.h>
#include <stdint.h>
#include <sys/ioctl.h>
