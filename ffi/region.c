/* SPDX-License-Identifier: Apache-2.0
 * Memory regions (region.ts). A region is a memfd with two descriptors: the first is writable, and
 * the second, reopened through /proc/self/fd, is read-only. A shared mapping of the read-only
 * descriptor has no VM_MAYWRITE, so mprotect(PROT_WRITE) on it fails with EACCES, as does a
 * writable mmap of that descriptor. So the MMU enforces the one-writer rule. Any process with the
 * writable descriptor can map the region writable.
 *
 * The seals restrict processes with the writable descriptor. SHRINK: readers of a truncated region
 * would fault. GROW: a process cannot allocate more memory through a region. SEAL: a process cannot
 * add a write seal, which would lock out the owner's successor.
 *
 * The file mode keeps other users from opening the region for writing through the /proc/PID/fd
 * entry of a read-only descriptor.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "native.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/*
 * Makes a zeroed region named `name` of `bytes` bytes. Stores its writable and its read-only
 * descriptor in `fds`; both close on exec, and the caller closes them. Returns 0, or -errno; ENOENT
 * if /proc is missing.
 */
EXPORT int tegula_region_create(const char *name, uint32_t bytes, int32_t fds[2])
{
	const int seals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
	char path[32];
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* Linux before 6.3 has no MFD_NOEXEC_SEAL */
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fds[0] = fd;
	if (ftruncate(fd, bytes) < 0 || fcntl(fd, F_ADD_SEALS, seals) < 0 ||
	    fchmod(fd, S_IRUSR) < 0 || (fds[1] = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return opened(fd, -errno);
	return 0;
}

/* Maps `bytes` of `fd` at the page boundary `at`, over any previous mapping. Returns 0, or -errno. */
EXPORT int tegula_region_map(void *at, uint32_t bytes, int protection, int fd)
{
	return mmap(at, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ? -errno : 0;
}
