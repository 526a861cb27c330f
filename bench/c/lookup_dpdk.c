/* SPDX-License-Identifier: Apache-2.0
 * Longest prefix match by DPDK, the peer of netbase's FIB: rte_fib (DIR24_8, scalar lookup) and rte_lpm, with given
 * routes and addresses, in bulks of 32.
 *
 *     lookup_dpdk ROUTES ADDRESSES…
 *
 * Both files are 32-bit words of this machine. ROUTES: destination, prefix length and next hop of each
 * route, the default one among them. Says "ready"; then for each line "fib|lpm FILE ROUNDS" on standard
 * input prints nanoseconds per lookup of all addresses of the FILE-th file, so many times over, and the
 * sum of the next hops found in one round.
 */
#define _GNU_SOURCE
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_fib.h>
#include <rte_lpm.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define BULK 32
#define MOST_FILES 4
/* Groups of 256, as many as netbase has. */
#define GROUPS (1 << 15)

struct route {
	uint32_t destination, length, next_hop;
};

struct words {
	uint32_t *at;
	size_t count;
};

_Noreturn __rte_format_printf(1, 2) static void die(const char *what, ...)
{
	va_list args;

	va_start(args, what);
	fprintf(stderr, "lookup_dpdk: ");
	vfprintf(stderr, what, args);
	fprintf(stderr, "\n");
	exit(1);
}

static struct words read_words(const char *path)
{
	struct words words;
	struct stat status;
	FILE *file = fopen(path, "rb");

	if (file == NULL || fstat(fileno(file), &status) != 0)
		die("cannot open %s", path);
	words.count = (size_t)status.st_size / sizeof(uint32_t);
	words.at = malloc((size_t)status.st_size);
	if (words.at == NULL || fread(words.at, sizeof(uint32_t), words.count, file) != words.count)
		die("cannot read %s", path);
	fclose(file);
	return words;
}

static struct rte_fib *make_fib(const struct route *routes, size_t count)
{
	struct rte_fib_conf conf = {
		.type = RTE_FIB_DIR24_8,
		.max_routes = (int)count + 1,
		.dir24_8 = { .nh_sz = RTE_FIB_DIR24_8_2B, .num_tbl8 = GROUPS - 1 },
	};
	struct rte_fib *fib = rte_fib_create("fib", SOCKET_ID_ANY, &conf);

	if (fib == NULL)
		die("rte_fib_create: %s", rte_strerror(rte_errno));
	for (size_t i = 0; i < count; i++) {
		int error = rte_fib_add(fib, routes[i].destination, (uint8_t)routes[i].length,
					routes[i].next_hop);

		if (error != 0)
			die("rte_fib_add: %s", rte_strerror(-error));
	}
	if (rte_fib_select_lookup(fib, RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO) != 0)
		die("rte_fib has no scalar lookup");
	return fib;
}

/*
 * rte_lpm_add searches all rules of a length, which is too slow for a full table. So prefixes up to /24, shorter
 * ones first, are written to the cells as it would do; it adds the rest.
 */
static struct rte_lpm *make_lpm(const struct route *routes, size_t count)
{
	struct rte_lpm_config conf = { .max_rules = GROUPS, .number_tbl8s = GROUPS };
	struct rte_lpm *lpm = rte_lpm_create("lpm", SOCKET_ID_ANY, &conf);

	if (lpm == NULL)
		die("rte_lpm_create: %s", rte_strerror(rte_errno));
	for (uint32_t length = 0; length <= 32; length++) {
		for (size_t i = 0; i < count; i++) {
			const struct route *route = &routes[i];
			uint32_t first = route->destination >> 8;
			struct rte_lpm_tbl_entry entry = {
				.next_hop = route->next_hop, .valid = 1, .depth = length & 63
			};

			if (route->length != length)
				continue;
			if (length > 24 && rte_lpm_add(lpm, route->destination, (uint8_t)length,
						       route->next_hop) != 0)
				die("rte_lpm_add failed");
			for (uint32_t n = 0; length <= 24 && n < 1u << (24 - length); n++)
				lpm->tbl24[first + n] = entry;
		}
	}
	return lpm;
}

static uint64_t look_up_fib(struct rte_fib *fib, const struct words *addresses)
{
	uint64_t next_hops[BULK], sum = 0;

	for (size_t i = 0; i < addresses->count; i += BULK) {
		rte_fib_lookup_bulk(fib, addresses->at + i, next_hops, BULK);
		for (int n = 0; n < BULK; n++)
			sum += next_hops[n];
	}
	return sum;
}

static uint64_t look_up_lpm(struct rte_lpm *lpm, const struct words *addresses)
{
	uint32_t next_hops[BULK];
	uint64_t sum = 0;

	for (size_t i = 0; i < addresses->count; i += BULK) {
		rte_lpm_lookup_bulk(lpm, addresses->at + i, next_hops, BULK);
		for (int n = 0; n < BULK; n++)
			sum += next_hops[n] & 0xffffff;
	}
	return sum;
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* Starts DPDK on all processors of this thread; by itself it would bind the thread to one. */
static void start_dpdk(char *name)
{
	char core[32], *arguments[] = { name, "--no-huge", "--no-pci", "--no-shconf", core,
					"--no-telemetry", "--log-level=error", "-m", "1024" };
	cpu_set_t processors;

	snprintf(core, sizeof(core), "--lcores=0@%d", sched_getcpu());
	sched_getaffinity(0, sizeof(processors), &processors);
	if (rte_eal_init((int)RTE_DIM(arguments), arguments) < 0)
		die("rte_eal_init: %s", rte_strerror(rte_errno));
	sched_setaffinity(0, sizeof(processors), &processors);
}

int main(int argc, char **argv)
{
	struct words routes, files[MOST_FILES];
	unsigned file, rounds;
	struct rte_fib *fib;
	struct rte_lpm *lpm;
	char table[8];

	if (argc < 3 || argc - 2 > MOST_FILES)
		die("usage: lookup_dpdk ROUTES ADDRESSES…");
	start_dpdk(argv[0]);
	routes = read_words(argv[1]);
	for (int i = 2; i < argc; i++)
		files[i - 2] = read_words(argv[i]);
	fib = make_fib((const struct route *)routes.at, routes.count / 3);
	lpm = make_lpm((const struct route *)routes.at, routes.count / 3);
	printf("ready\n");
	fflush(stdout);
	while (scanf("%7s %u %u", table, &file, &rounds) == 3 && file < (unsigned)argc - 2) {
		uint64_t sum = 0;
		double begin = now_ns();

		for (unsigned round = 0; round < rounds; round++)
			sum += strcmp(table, "fib") == 0 ? look_up_fib(fib, &files[file]) :
							   look_up_lpm(lpm, &files[file]);
		printf("%.3f %llu\n",
		       (now_ns() - begin) / ((double)rounds * (double)files[file].count),
		       (unsigned long long)(sum / rounds));
		fflush(stdout);
	}
	return 0;
}
