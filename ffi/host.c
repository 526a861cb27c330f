/*
 * What main asks of the host (host.ts): eventfds, limits, drivers, systemd.
 */
#define _GNU_SOURCE
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "native.h"

/* Arguments that `tegula_host_exec` takes. */
#define MOST_WORDS 512

/* An eventfd; non-blocking, so that neither who wakes nor who empties it can be held up. */
EXPORT int tegula_host_eventfd(void)
{
	return result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

EXPORT int tegula_host_close(int fd)
{
	return result(close(fd));
}

/* Whether thread `id` of this process runs: 0, or -errno (ESRCH when it has ended). */
EXPORT int tegula_host_thread(int id)
{
	return result(syscall(SYS_tgkill, getpid(), id, 0));
}

/* Lifts RLIMIT_MEMLOCK for the process. 0, or -errno (EPERM without CAP_SYS_RESOURCE). */
EXPORT int tegula_host_raise_memlock(void)
{
	const struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY };

	return result(setrlimit(RLIMIT_MEMLOCK, &none));
}

/* The index of `ifname`, 0 when no interface of this thread's namespace has that name. */
EXPORT uint32_t tegula_host_ifindex(const char *ifname)
{
	return if_nametoindex(ifname);
}

/* One SIOC* request about `ifname` (shorter than IFNAMSIZ), see netdevice(7). 0, or -errno. */
static int ask(const char *ifname, unsigned long request, struct ifreq *ifr)
{
	int error, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	strncpy(ifr->ifr_name, ifname, IFNAMSIZ - 1);
	error = result(ioctl(fd, request, ifr));
	close(fd);
	return error;
}

/* One ETHTOOL_* request. 0, or -errno. */
static int ask_driver(const char *ifname, void *request)
{
	struct ifreq ifr = { .ifr_data = request };

	return ask(ifname, SIOCETHTOOL, &ifr);
}

/* The kind of link that `ifname` is, ARPHRD_* of <linux/if_arp.h>, or -errno. */
EXPORT int tegula_host_hardware(const char *ifname)
{
	struct ifreq ifr = { 0 };
	int error = ask(ifname, SIOCGIFHWADDR, &ifr);

	return error ? error : ifr.ifr_hwaddr.sa_family;
}

/* How many receive queues `ifname` has, or -errno when its driver does not say. */
EXPORT int tegula_host_channels(const char *ifname)
{
	struct ethtool_channels channels = { .cmd = ETHTOOL_GCHANNELS };
	int error = ask_driver(ifname, &channels);

	return error ? error : (int)(channels.rx_count + channels.combined_count);
}

/* Stores the driver's name (32 bytes, not terminated), and returns its length or -errno. */
EXPORT int tegula_host_driver(const char *ifname, char driver[32])
{
	struct ethtool_drvinfo info = { .cmd = ETHTOOL_GDRVINFO };
	int error = ask_driver(ifname, &info);

	if (error)
		return error;
	memcpy(driver, info.driver, sizeof(info.driver));
	return (int)strnlen(info.driver, sizeof(info.driver));
}

/*
 * execve(2) with the environment as it is. `words` holds `count` strings, one after the other, each
 * terminated; the first is the program's path and all are its arguments. Returns only with -errno.
 */
EXPORT int tegula_host_exec(char *words, uint32_t count)
{
	char *argv[MOST_WORDS + 1] = { 0 };

	if (count == 0 || count > MOST_WORDS)
		return -E2BIG;
	for (uint32_t i = 0; i < count; i++) {
		argv[i] = words;
		words += strlen(words) + 1;
	}
	return result(execv(argv[0], argv));
}

/*
 * sd_notify(3) without libsystemd: one datagram to the socket that $NOTIFY_SOCKET names; a leading
 * '@' stands for the zero byte of an abstract one. 0, also when the variable is unset, or -errno.
 */
EXPORT int tegula_host_notify(const char *message)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	size_t length = path ? strlen(path) : 0;
	int error, fd;

	if (length == 0)
		return 0;
	if (length >= sizeof(to.sun_path))
		return -E2BIG;
	memcpy(to.sun_path, path, length);
	if (path[0] == '@')
		to.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	length += offsetof(struct sockaddr_un, sun_path);
	error = result(sendto(fd, message, strlen(message), MSG_NOSIGNAL, (struct sockaddr *)&to,
			      (socklen_t)length));
	close(fd);
	return error < 0 ? error : 0;
}
