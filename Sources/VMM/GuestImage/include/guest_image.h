// The guest kernel that osv-run carries: an ELF image between two symbols that GuestImagePlugin makes.
#pragma once

extern const unsigned char osv_guest_image[], osv_guest_image_end[];

/// The first byte of the kernel's ELF image; it lives as long as the process.
static inline const void *osv_guest_image_base(void) { return osv_guest_image; }

/// The image's size in bytes.
static inline unsigned long osv_guest_image_size(void) {
  return (unsigned long)(osv_guest_image_end - osv_guest_image);
}
