/* SPDX-License-Identifier: Apache-2.0
 * Netbase's neighbour table in C, the peer of the one in JavaScript: the same slots, records, hash
 * (netbase/hash_table.ts) and addresses.
 *
 *     lookup_neighbors TABLE ADDRESSES…
 *
 * All files are 32-bit words of this machine. TABLE: log2 of the slots, seed and two multipliers of the
 * hash, interface, the slots, and the records. Says "ready"; then for each line "FILE ROUNDS CHANGES" on standard input looks all
 * addresses of the FILE-th file up, so many times over, while a second thread gives CHANGES neighbours a
 * second another MAC address. Prints nanoseconds per lookup, and how many were found in one round.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST_PROBES 128
#define NUMBER_MASK 0xfffffu
/* NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY */
#define USABLE 0xdeu
#define MOST_FILES 4
/* Lookups between two checks which table is current, and changes between two sleeps. */
#define BURST 64

struct record {
	uint32_t ifindex, address, mac_head, mac_tail, state, unused[3];
};

struct table {
	uint32_t mask, seed, multiplier1, multiplier2;
	uint32_t *slots;
};

struct words {
	uint32_t *at;
	size_t count;
};

static struct table first, *published = &first;
static struct record *records;
static size_t record_count;
static uint32_t ifindex;
static unsigned changes_per_second;
static bool stopping;

_Noreturn static void die(const char *what, const char *which)
{
	fprintf(stderr, "lookup_neighbors: %s %s\n", what, which);
	exit(1);
}

static struct words read_words(const char *path)
{
	struct words words;
	struct stat status;
	FILE *file = fopen(path, "rb");

	if (file == NULL || fstat(fileno(file), &status) != 0)
		die("cannot open", path);
	words.count = (size_t)status.st_size / sizeof(uint32_t);
	words.at = malloc((size_t)status.st_size);
	if (words.at == NULL || fread(words.at, sizeof(uint32_t), words.count, file) != words.count)
		die("cannot read", path);
	fclose(file);
	return words;
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static inline uint32_t hash_key(uint32_t a, uint32_t b, const struct table *table)
{
	uint32_t h = (b + table->seed) * table->multiplier1;

	h = (h ^ (h >> 15)) + a * table->multiplier2;
	h = (h ^ (h >> 13)) * table->multiplier2;
	return h ^ (h >> 16);
}

/* Slot of a neighbour, or NULL. */
static inline uint32_t *find_slot(const struct table *table, uint32_t a, uint32_t b)
{
	uint32_t hash = hash_key(a, b, table);

	for (uint32_t i = 0; i < MOST_PROBES; i++) {
		uint32_t *slot = &table->slots[(hash + i) & table->mask];
		uint32_t word = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
		const struct record *record = &records[(word & NUMBER_MASK) - 1];

		if (word == 0)
			return NULL;
		if (word >> 20 == hash >> 21 && record->ifindex == a && record->address == b)
			return slot;
	}
	return NULL;
}

/*
 * Gives one neighbour after another a new MAC address, in the other of its two records, in batches with a sleep after
 * each, like the writer in the measurement of JavaScript.
 */
static void *change(void *unused)
{
	size_t half = record_count / 2;
	double next = now_ns();

	for (size_t i = 0; !__atomic_load_n(&stopping, __ATOMIC_RELAXED);) {
		for (int n = 0; n < BURST; n++, i = (i + 1) % half) {
			uint32_t *slot = find_slot(&first, ifindex, records[i].address);
			size_t old = (*slot & NUMBER_MASK) - 1;
			size_t new = old < half ? old + half : old - half;

			records[new] = records[old];
			records[new].mac_tail = (records[old].mac_tail + 1) & 0xffff;
			__atomic_store_n(slot, (*slot & ~NUMBER_MASK) | (uint32_t)(new + 1),
					 __ATOMIC_SEQ_CST);
		}
		next += 1e9 * BURST / changes_per_second;
		usleep(next > now_ns() ? (useconds_t)((next - now_ns()) / 1e3) : 0);
	}
	return unused;
}

static uint64_t look_up(const uint32_t *addresses, uint32_t *found)
{
	const struct table *table = __atomic_load_n(&published, __ATOMIC_ACQUIRE);
	uint64_t sum = 0;

	for (int i = 0; i < BURST; i++) {
		const uint32_t *slot = find_slot(table, ifindex, addresses[i]);
		const struct record *record;

		if (slot == NULL)
			continue;
		record = &records[(*slot & NUMBER_MASK) - 1];
		if ((record->state & USABLE) == 0)
			continue;
		sum += record->mac_head + record->mac_tail;
		++*found;
	}
	return sum;
}

/* One measurement. */
static void measure(const struct words *addresses, unsigned rounds)
{
	volatile uint64_t witness = 0;
	pthread_t writer;
	uint32_t found = 0;
	double begin;

	stopping = false;
	if (changes_per_second > 0 && pthread_create(&writer, NULL, change, NULL) != 0)
		die("cannot start", "the writer");
	begin = now_ns();
	for (unsigned round = 0; round < rounds; round++)
		for (size_t i = 0; i < addresses->count; i += BURST)
			witness += look_up(addresses->at + i, &found);
	printf("%.3f %u\n", (now_ns() - begin) / ((double)rounds * (double)addresses->count),
	       found / rounds);
	fflush(stdout);
	__atomic_store_n(&stopping, true, __ATOMIC_RELAXED);
	if (changes_per_second > 0)
		pthread_join(writer, NULL);
}

int main(int argc, char **argv)
{
	struct words table, files[MOST_FILES];
	unsigned file, rounds;
	size_t slots;

	if (argc < 3 || argc - 2 > MOST_FILES)
		die("usage:", "lookup_neighbors TABLE ADDRESSES…");
	table = read_words(argv[1]);
	for (int i = 2; i < argc; i++)
		files[i - 2] = read_words(argv[i]);
	slots = 1u << table.at[0];
	first = (struct table){ .mask = (uint32_t)slots - 1, .seed = table.at[1],
				.multiplier1 = table.at[2], .multiplier2 = table.at[3],
				.slots = table.at + 5 };
	ifindex = table.at[4];
	records = (struct record *)(table.at + 5 + slots);
	record_count = (table.count - 5 - slots) * sizeof(uint32_t) / sizeof(struct record);
	printf("ready\n");
	fflush(stdout);
	while (scanf("%u %u %u", &file, &rounds, &changes_per_second) == 3 &&
	       file < (unsigned)argc - 2)
		measure(&files[file], rounds);
	return 0;
}
