/*
 * The beginning of dist/tegula, the one-file executable that `deno task compile` makes where Deno's own
 * base binary cannot be had. The file is this launcher, a ustar archive (the stock deno, the program,
 * its npm modules, its native libraries) and a trailer. On its first start it unpacks the archive into
 * a private folder named by the archive's hash; from then on it only executes deno from there.
 *
 * The folder is trusted with what the caller may do, so it must belong to the caller and be writable
 * by nobody else. It appears whole, by a rename, and is in use while a shared lock on it is held: the
 * lock goes with the descriptor through exec and ends with the process. Who unpacks a new version
 * takes away those that nobody uses.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "tegula-1"
#define BLOCK 512
#define UNFINISHED ".new-"
/* As cli/errors.ts: the system lacks something. */
#define EXIT_SYSTEM 7
/* Two that unpack at once, or a clean-up in between, make a second attempt worth it, not a third. */
#define ATTEMPTS 3

/* The last bytes of the file, made by scripts/compile.ts. */
struct trailer {
	uint64_t offset; /* of the archive, little-endian as everything here */
	uint64_t length;
	char hash[64]; /* SHA-256 of the archive, hexadecimal */
	char magic[8];
};

/* A header of the archive: POSIX.1-1988 ustar. */
struct entry {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
	char magic[8], user[32], group[32], major[8], minor[8], prefix[155], padding[12];
};

static _Noreturn void fail(const char *format, ...)
{
	va_list arguments;

	fputs("tegula: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(EXIT_SYSTEM);
}

/* Formats into a new string; ends the program when there is no memory. */
static char *text(const char *format, ...)
{
	va_list arguments;
	char *result;

	va_start(arguments, format);
	if (vasprintf(&result, format, arguments) < 0)
		fail("out of memory");
	va_end(arguments);
	return result;
}

/* Makes a folder and those above it. */
static void make_folders(const char *path)
{
	char *part = text("%s", path);

	for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(part, 0755);
		*slash = '/';
	}
	mkdir(part, 0700);
	free(part);
}

/*
 * Opens the cache folder at `path`, making it when it is not there. Returns its descriptor, or -1
 * with errno: EPERM when it is not the caller's alone. `flags`: O_NOFOLLOW unless the path was given.
 */
static int open_cache(const char *path, int flags)
{
	struct stat status;
	int folder;

	make_folders(path);
	folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags);
	if (folder < 0 || fstat(folder, &status))
		return -1;
	if (status.st_uid == geteuid() && !(status.st_mode & (S_IWGRP | S_IWOTH)) &&
	    !faccessat(folder, ".", W_OK | X_OK, AT_EACCESS))
		return folder;
	close(folder);
	errno = EPERM;
	return -1;
}

/* Opens the first cache folder that will do, in the order that docs/operating.md gives. */
static int find_cache(char **path)
{
	const char *given = getenv("TEGULA_CACHE"), *service = getenv("CACHE_DIRECTORY");
	const char *user = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char *guesses[4] = { 0 };
	int count = 0, folder;

	if (!given)
		given = service;
	if (given) {
		*path = text("%s", given);
		folder = open_cache(given, 0);
		if (folder < 0)
			fail("cannot unpack into %s: %s; it must be yours, and writable by you alone",
			     given, strerror(errno));
		return folder;
	}
	/* Root does not trust HOME: under sudo it may be another's. */
	if (geteuid() == 0)
		guesses[count++] = text("/var/cache/tegula");
	else if (user && *user == '/')
		guesses[count++] = text("%s/tegula", user);
	else if (home && *home == '/')
		guesses[count++] = text("%s/.cache/tegula", home);
	guesses[count++] = text("/tmp/tegula-%u", geteuid());
	for (int i = 0; i < count; i++) {
		folder = open_cache(guesses[i], O_NOFOLLOW);
		*path = guesses[i];
		if (folder >= 0)
			return folder;
	}
	fail("cannot unpack into %s: %s; name a folder of yours by TEGULA_CACHE", *path,
	     strerror(errno));
}

/* Removes a file or a folder with all that is in it. */
static void remove_tree(int parent, const char *name)
{
	int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *list = folder < 0 ? NULL : fdopendir(folder);
	struct dirent *entry;

	if (!list) {
		unlinkat(parent, name, 0);
		return;
	}
	while ((entry = readdir(list)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			remove_tree(folder, entry->d_name);
	closedir(list);
	unlinkat(parent, name, AT_REMOVEDIR);
}

/* Opens a folder of the cache and takes a lock on it. -1 when it is not there or in use. */
static int lock_folder(int cache, const char *name, int operation)
{
	int folder = openat(cache, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat status;

	/* Without a link it was removed between open and lock. */
	if (folder >= 0 && !flock(folder, operation) && !fstat(folder, &status) && status.st_nlink)
		return folder;
	if (folder >= 0)
		close(folder);
	return -1;
}

/* Takes away other versions and unfinished folders that no process uses. */
static void clean_up(int cache, const char *keep)
{
	int copy = openat(cache, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;

	while (list && (entry = readdir(list))) {
		const char *name = entry->d_name;
		bool version = strspn(name, "0123456789abcdef") == 64 && !name[64];
		int folder;

		if ((!version && strncmp(name, UNFINISHED, strlen(UNFINISHED))) || !strcmp(name, keep))
			continue;
		folder = lock_folder(cache, name, LOCK_EX | LOCK_NB);
		if (folder < 0)
			continue;
		remove_tree(cache, name);
		close(folder);
	}
	if (list)
		closedir(list);
}

/* Reads an octal number of a header. */
static uint64_t number(const char *field, size_t length)
{
	char digits[13] = { 0 };

	memcpy(digits, field, length);
	return strtoull(digits, NULL, 8);
}

/* Writes one file of the archive. False, with errno, when that cannot be done. */
static bool write_file(int folder, const char *path, mode_t mode, int from, off_t at, uint64_t size)
{
	int to = openat(folder, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	ssize_t moved = 0;

	if (to < 0)
		return false;
	for (uint64_t left = size; left; left -= (uint64_t)moved) {
		moved = sendfile(to, from, &at, left);
		if (moved <= 0)
			break;
	}
	return !close(to) && (moved > 0 || !size);
}

/* Unpacks the archive into `folder`. False, with errno, when that cannot be done. */
static bool unpack(int folder, int from, const struct trailer *trailer)
{
	uint64_t at = trailer->offset, end = trailer->offset + trailer->length;
	struct entry entry;
	char path[sizeof(entry.prefix) + sizeof(entry.name) + 2];

	while (at < end && pread(from, &entry, BLOCK, (off_t)at) == BLOCK && entry.name[0]) {
		uint64_t size = number(entry.size, sizeof(entry.size));
		mode_t mode = number(entry.mode, sizeof(entry.mode)) & 0755;

		snprintf(path, sizeof(path), "%.155s%s%.100s", entry.prefix,
			 entry.prefix[0] ? "/" : "", entry.name);
		at += BLOCK;
		if (entry.type == '5' ? mkdirat(folder, path, 0700) && errno != EEXIST :
					!write_file(folder, path, mode, from, (off_t)at, size))
			return false;
		at += (size + BLOCK - 1) / BLOCK * BLOCK;
	}
	/* What a crash leaves must not pass for whole: the data goes to the disk before the name. */
	return !syncfs(folder);
}

/* Makes the version's folder beside its place and renames it there, unless somebody was faster. */
static void install(int cache, const char *path, const char *hash, int from,
		    const struct trailer *trailer)
{
	char *unfinished = text(UNFINISHED "%d", getpid());
	int folder;

	remove_tree(cache, unfinished);
	mkdirat(cache, unfinished, 0700);
	folder = lock_folder(cache, unfinished, LOCK_EX | LOCK_NB);
	if (folder < 0)
		return;
	if (!unpack(folder, from, trailer)) {
		int reason = errno;

		remove_tree(cache, unfinished);
		fail("cannot unpack into %s: %s", path, strerror(reason));
	}
	if (renameat(cache, unfinished, cache, hash))
		remove_tree(cache, unfinished);
	close(folder);
	free(unfinished);
	clean_up(cache, hash);
}

/* Executes deno from the unpacked folder with the program and its arguments. */
static _Noreturn void start(const char *folder, const char *self, int argc, char **argv)
{
	char *deno = text("%s/deno", folder);
	/* As DENO_FLAGS in cli/self.ts; nothing is fetched. */
	char *flags[] = { deno,		 "run",		      "--no-prompt",
			  "--cached-only", "--unstable-worker-options", "--allow-all",
			  text("%s/main.ts", folder) };
	size_t flag_count = sizeof(flags) / sizeof(flags[0]);
	char **arguments = calloc(flag_count + (size_t)argc + 1, sizeof(*arguments));

	if (!arguments)
		fail("out of memory");
	memcpy(arguments, flags, sizeof(flags));
	if (argc > 1)
		memcpy(arguments + flag_count, argv + 1, sizeof(*argv) * (size_t)(argc - 1));
	setenv("TEGULA_EXECUTABLE", self, 1);
	setenv("DENO_DIR", text("%s/cache", folder), 1);
	setenv("DENO_NO_UPDATE_CHECK", "1", 1);
	execv(deno, arguments);
	fail("cannot execute %s: %s; is its file system mounted noexec? TEGULA_CACHE names another",
	     deno, strerror(errno));
}

int main(int argc, char **argv)
{
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), cache, folder = -1;
	struct trailer trailer;
	char self[PATH_MAX] = { 0 }, hash[sizeof(trailer.hash) + 1] = { 0 };
	char *path;
	off_t size;

	if (file < 0 || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		fail("cannot read /proc/self/exe: %s; is /proc mounted?", strerror(errno));
	size = lseek(file, 0, SEEK_END);
	if (pread(file, &trailer, sizeof(trailer), size - (off_t)sizeof(trailer)) !=
		    (ssize_t)sizeof(trailer) || memcmp(trailer.magic, MAGIC, sizeof(trailer.magic)))
		fail("%s is not whole: the archive at its end is missing", self);
	memcpy(hash, trailer.hash, sizeof(trailer.hash));
	cache = find_cache(&path);
	for (int i = 0; i < ATTEMPTS; i++) {
		folder = lock_folder(cache, hash, LOCK_SH);
		if (folder >= 0)
			break;
		install(cache, path, hash, file, &trailer);
	}
	if (folder < 0)
		fail("cannot unpack into %s: others keep removing it", path);
	/* Open beyond exec: the lock says that this version is in use. */
	fcntl(folder, F_SETFD, 0);
	start(text("%s/%s", path, hash), self, argc, argv);
}
