/*
 * Memory regions (region.ts). JavaScript owns address space, the inside of a SharedArrayBuffer; the
 * kernel lets MAP_FIXED put pages of a memfd there. Three steps make the one-writer rule hold:
 *
 *   1. map the memfd read-write over the owner's buffer;
 *   2. seal it: F_SEAL_FUTURE_WRITE refuses every later writable mapping and every write(2), and
 *      clears VM_MAYWRITE on mappings made from then on; GROW and SHRINK keep a tile from making
 *      others fault; SEAL keeps it so;
 *   3. map it read-only over the readers' buffer. mprotect(PROT_WRITE) on that is EACCES.
 *
 * The owner's mapping is older than the seal and stays writable. The descriptor is closed: nothing is
 * left that could be mapped again. The mappings live until the process ends.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "native.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

/*
 * Maps `bytes` of `fd` over the first page boundary in `room`, which reaches at least a page further
 * than that and is kept for ever, and stores how far into `room` it is. 0, or -errno.
 */
EXPORT int tegula_region_map(void *room, uint32_t bytes, int protection, int fd, uint32_t *offset)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start = ((uintptr_t)room + page - 1) & ~(page - 1);

	*offset = (uint32_t)(start - (uintptr_t)room);
	return mmap((void *)start, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ?
		       -errno : 0;
}

/*
 * Makes a zeroed region named `name` of `bytes` bytes, by the steps above. `writer` and `reader` each
 * have room for whole pages of that and one page more; `offsets` receives where in each the region
 * begins. The caller keeps both for ever, also when this fails. 0, or -errno.
 */
EXPORT int tegula_region_create(const char *name, uint32_t bytes, void *writer, void *reader,
				uint32_t offsets[2])
{
	const int seals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
	int error, fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 there is no MFD_NOEXEC_SEAL */
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	error = result(ftruncate(fd, bytes));
	if (!error)
		error = tegula_region_map(writer, bytes, PROT_READ | PROT_WRITE, fd, &offsets[0]);
	if (!error)
		error = result(fcntl(fd, F_ADD_SEALS, seals));
	if (!error)
		error = tegula_region_map(reader, bytes, PROT_READ, fd, &offsets[1]);
	close(fd);
	return error;
}
