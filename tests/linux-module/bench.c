// SPDX-License-Identifier: MIT
/*
 * What Linux's DMA API takes, in instructions, for `tests/run bench`.
 *
 * It binds to QEMU's `edu` device and, under `-icount shift=0,sleep=off`, counts with the processor's counter what each
 * operation takes and the one that undoes it. It tells the medians and means in lines that the rig reads:
 *
 *	bench NAME MEDIAN MEAN MEDIAN MEAN
 *
 * The rows and the order in which things are done are those of the bare guest's, tests/metal/src/cases/bench. The parameter
 * `what` chooses: "api" is all but the addresses, "all" has these too, "pool" is the pool alone, for a kernel that does not
 * zero what it allocates.
 *
 * Functions: the kernel's documentation, core-api/dma-api.rst and driver-api, and its headers.
 */
#include <linux/dma-mapping.h>
#include <linux/dmapool.h>
#include <linux/gfp.h>
#include <linux/iommu.h>
#include <linux/iova.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/sort.h>
#include <linux/vmalloc.h>

/* How often an operation is counted, and how often it is done before. */
#define ROUNDS 1001
#define WARM_UP 200
#define LOTS (WARM_UP + 2 * ROUNDS)

/* How many of those that are live are given back before as many are taken. */
#define TURN 16
#define LARGE_TURN 512

#define RING 128
#define SIZES 32
#define LIST 16

static char *what = "api";
module_param(what, charp, 0444);

static const unsigned long live_counts[] = { 1000, 10000, 100000, 1000000 };

/* What an operation and the one that undoes it took. */
struct pairs {
	u64 make[LOTS], undo[LOTS];
	unsigned int made, undone;
};

static struct pairs pairs;

/* The device, and memory to be mapped: pages that follow one another. */
static struct device *dev;
static void *memory;
#define MEMORY_ORDER get_order(SZ_2M)

/* Counts what an expression takes. */
#define MAKE(expression) ({					\
	u64 start_ = counter();					\
	typeof(expression) made_ = (expression);		\
								\
	pairs.make[pairs.made++] = counter() - start_;		\
	made_;							\
})

/* The same of what gives nothing. */
#define UNDO(expression) do {					\
	u64 start_ = counter();					\
								\
	(void)(expression);					\
	pairs.undo[pairs.undone++] = counter() - start_;	\
} while (0)

static __always_inline u64 counter(void)
{
	u64 count;

	barrier();
	count = rdtsc();
	barrier();
	return count;
}

static void forget(void)
{
	pairs.made = pairs.undone = 0;
}

static int by_size(const void *left, const void *right)
{
	u64 l = *(const u64 *)left, r = *(const u64 *)right;

	return l < r ? -1 : l > r;
}

static u64 median(u64 *samples, unsigned int count)
{
	sort(samples, count, sizeof(*samples), by_size, NULL);
	return count ? samples[count / 2] : 0;
}

static u64 mean(const u64 *samples, unsigned int count)
{
	u64 sum = 0;
	unsigned int at;

	for (at = 0; at < count; at++)
		sum += samples[at];
	return count ? (sum + count / 2) / count : 0;
}

static void tell(const char *name)
{
	u64 make = median(pairs.make, pairs.made), undo = median(pairs.undo, pairs.undone);

	pr_info("bench %s %llu %llu %llu %llu\n", name, make, mean(pairs.make, pairs.made), undo,
		mean(pairs.undo, pairs.undone));
	forget();
}

/* Numbers in the same order every time, and on our side: Marsaglia's xorshift64. */
static u64 order;

static void begin_order(void)
{
	order = 0x9e3779b97f4a7c15ull;
}

static unsigned long below(unsigned long end)
{
	order ^= order << 13;
	order ^= order >> 7;
	order ^= order << 17;
	return order % end;
}

/* Does both again and again, the first times uncounted. */
#define REPEAT(body) do {					\
	int round_;						\
								\
	forget();						\
	for (round_ = 0; round_ < WARM_UP + ROUNDS; round_++) {	\
		if (round_ == WARM_UP)				\
			forget();				\
		body;						\
	}							\
} while (0)

static void nothing(void)
{
	REPEAT(MAKE(0); UNDO(0));
	tell("nothing");
}

static dma_addr_t map_from(void *start, size_t bytes)
{
	dma_addr_t address = MAKE(dma_map_single(dev, start, bytes, DMA_FROM_DEVICE));

	WARN_ON(dma_mapping_error(dev, address));
	return address;
}

static dma_addr_t map(size_t bytes)
{
	return map_from(memory, bytes);
}

static void unmap(dma_addr_t address, size_t bytes)
{
	UNDO(dma_unmap_single(dev, address, bytes, DMA_FROM_DEVICE));
}

static void singles(void)
{
	static const struct { const char *name; size_t bytes; } sizes[] = {
		{ "single/64", 64 }, { "single/1500", 1500 }, { "single/4k", SZ_4K },
		{ "single/64k", SZ_64K }, { "single/2m", SZ_2M },
	};
	int at;

	for (at = 0; at < ARRAY_SIZE(sizes); at++) {
		REPEAT(unmap(map(sizes[at].bytes), sizes[at].bytes));
		tell(sizes[at].name);
	}
}

/* Pages of which none follows another. */
static void list(void)
{
	struct scatterlist entries[LIST];
	int at;

	sg_init_table(entries, LIST);
	for (at = 0; at < LIST; at++)
		sg_set_buf(&entries[at], memory + 2 * at * SZ_4K, SZ_4K);
	REPEAT(WARN_ON(!MAKE(dma_map_sg(dev, entries, LIST, DMA_FROM_DEVICE)));
	       UNDO(dma_unmap_sg(dev, entries, LIST, DMA_FROM_DEVICE)));
	tell("sg-16");
}

/* The oldest is unmapped, and mapped again behind the others. */
static void ring(void)
{
	static dma_addr_t addresses[RING];
	int at, place;

	for (at = 0; at < RING; at++)
		addresses[at] = map_from(memory + at * SZ_4K, SZ_4K);
	forget();
	for (at = 0; at < WARM_UP + ROUNDS; at++) {
		if (at == WARM_UP)
			forget();
		place = at % RING;
		unmap(addresses[place], SZ_4K);
		addresses[place] = map_from(memory + place * SZ_4K, SZ_4K);
	}
	tell("ring-128");
	for (at = 0; at < RING; at++)
		unmap(addresses[at], SZ_4K);
}

/* One buffer of each of 1 to 32 pages, of which one at random is mapped, or unmapped if it is. */
static void mixed(void)
{
	static dma_addr_t addresses[SIZES];
	static bool mapped[SIZES];
	unsigned int at, number;

	begin_order();
	forget();
	for (at = 0; at < WARM_UP + 2 * ROUNDS; at++) {
		if (at == WARM_UP)
			forget();
		number = below(SIZES);
		if (mapped[number])
			unmap(addresses[number], (number + 1) * SZ_4K);
		else
			addresses[number] = map((number + 1) * SZ_4K);
		mapped[number] = !mapped[number];
	}
	tell("mixed-32");
	for (number = 0; number < SIZES; number++)
		if (mapped[number])
			unmap(addresses[number], (number + 1) * SZ_4K);
}

static void coherent(void)
{
	static const struct { const char *name; size_t bytes; } sizes[] = {
		{ "coherent/256", 256 }, { "coherent/4k", SZ_4K },
	};
	dma_addr_t address;
	void *block;
	int at;

	for (at = 0; at < ARRAY_SIZE(sizes); at++) {
		REPEAT(block = MAKE(dma_alloc_coherent(dev, sizes[at].bytes, &address, GFP_KERNEL));
		       UNDO(dma_free_coherent(dev, sizes[at].bytes, block, address)));
		tell(sizes[at].name);
	}
}

/* One block stays, as in a pool that is used. */
static void pool(bool zeroed)
{
	struct dma_pool *blocks = dma_pool_create("bench", dev, 256, 64, 0);
	gfp_t flags = GFP_KERNEL | (zeroed ? __GFP_ZERO : 0);
	dma_addr_t address, first_address;
	void *block, *first;

	if (WARN_ON(!blocks))
		return;
	first = dma_pool_alloc(blocks, flags, &first_address);
	REPEAT(block = MAKE(dma_pool_alloc(blocks, flags, &address));
	       UNDO(dma_pool_free(blocks, block, address)));
	tell(zeroed ? "pool/256-zeroed" : "pool/256");
	dma_pool_free(blocks, first, first_address);
	dma_pool_destroy(blocks);
}

#define ACCESS (IOMMU_READ | IOMMU_WRITE)

/* What is mapped and unmapped in a domain lies here, beside something that stays, so that its tables are there. */
#define PLACE (1ul << 32)
#define BESIDE (PLACE + SZ_1G - SZ_4K)
#define BESIDE_LARGE (PLACE + SZ_512M)

static void domain_pairs(struct iommu_domain *domain, const char *kind)
{
	static const struct { const char *name; size_t bytes; } sizes[] = {
		{ "4k", SZ_4K }, { "256x4k", SZ_1M }, { "2m", SZ_2M },
	};
	phys_addr_t physical = virt_to_phys(memory);
	char name[64];
	int at;

	/* In the tables of what comes: one entry before the end of the first 2 MiB, and one large page. */
	WARN_ON(iommu_map(domain, PLACE + SZ_2M - SZ_4K, physical, SZ_4K, ACCESS));
	WARN_ON(iommu_map(domain, BESIDE_LARGE, physical, SZ_2M, ACCESS));
	for (at = 0; at < ARRAY_SIZE(sizes); at++) {
		/* Large pages lie beside the large one. */
		unsigned long place = sizes[at].bytes == SZ_2M ? BESIDE_LARGE + SZ_2M : PLACE;

		REPEAT(WARN_ON(MAKE(iommu_map(domain, place, physical, sizes[at].bytes, ACCESS)));
		       UNDO(iommu_unmap(domain, place, sizes[at].bytes)));
		snprintf(name, sizeof(name), "%s/%s", kind, sizes[at].name);
		tell(name);
	}
	iommu_unmap(domain, PLACE + SZ_2M - SZ_4K, SZ_4K);
	iommu_unmap(domain, BESIDE_LARGE, SZ_2M);
}

/* 64 GiB in large pages, mapped one by one and unmapped all at once; and a page beside them. */
static void much(struct iommu_domain *domain)
{
	const unsigned long all = 64ul * SZ_1G, start = 4 * PLACE;
	phys_addr_t physical = virt_to_phys(memory);
	unsigned long offset;
	u64 begun, mapped;

	begun = counter();
	for (offset = 0; offset < all; offset += SZ_2M)
		WARN_ON(iommu_map(domain, start + offset, physical, SZ_2M, ACCESS));
	mapped = counter() - begun;
	WARN_ON(iommu_map(domain, PLACE + SZ_2M - SZ_4K, physical, SZ_4K, ACCESS));
	REPEAT(WARN_ON(MAKE(iommu_map(domain, PLACE, physical, SZ_4K, ACCESS)));
	       UNDO(iommu_unmap(domain, PLACE, SZ_4K)));
	tell("iommu/4k-beside-64g");
	forget();
	UNDO(iommu_unmap(domain, start, all));
	pairs.make[pairs.made++] = mapped;
	tell("iommu/64g");
	iommu_unmap(domain, PLACE + SZ_2M - SZ_4K, SZ_4K);
}

/* A domain of our own, in place of the one that the DMA API uses. */
static void domains(void)
{
	struct iommu_domain *domain = iommu_domain_alloc(dev->bus);

	if (!domain)
		return;
	domain_pairs(domain, "iommu-unattached");
	REPEAT(WARN_ON(MAKE(iommu_attach_device(domain, dev)));
	       UNDO(iommu_detach_device(domain, dev)));
	tell("attach");
	if (!WARN_ON(iommu_attach_device(domain, dev))) {
		domain_pairs(domain, "iommu");
		much(domain);
		iommu_detach_device(domain, dev);
	}
	iommu_domain_free(domain);
}

/* The allocator of I/O addresses, by itself. */
static void addresses(const char *kind, bool is_mixed, int at_once)
{
	const unsigned long limit = (1ul << 48) - 1;
	unsigned long *starts = vmalloc(array_size(live_counts[3], sizeof(*starts)));
	u8 *pages = vmalloc(live_counts[3]);
	struct { u8 pages; } turn[LARGE_TURN];
	const int warm = DIV_ROUND_UP(WARM_UP, at_once);
	struct iova_domain space;
	unsigned long count, live = 0, place;
	int size, round, at;
	char name[64];

	init_iova_domain(&space, SZ_4K, 1);
	if (WARN_ON(!starts || !pages || iova_domain_init_rcaches(&space)))
		goto out;
	begin_order();
	for (size = 0; size < ARRAY_SIZE(live_counts); size++) {
		count = live_counts[size];
		for (; live < count; live++) {
			pages[live] = is_mixed ? 1 + below(SIZES) : 1;
			starts[live] = alloc_iova_fast(&space, pages[live], limit >> 12, true);
			WARN_ON_ONCE(!starts[live]);
		}
		forget();
		for (round = 0; round < warm + DIV_ROUND_UP(ROUNDS, at_once); round++) {
			if (round == warm)
				forget();
			for (at = 0; at < at_once; at++) {
				place = below(live--);
				turn[at].pages = pages[place];
				UNDO(free_iova_fast(&space, starts[place], pages[place]));
				starts[place] = starts[live];
				pages[place] = pages[live];
			}
			for (at = 0; at < at_once; at++, live++) {
				pages[live] = turn[at].pages;
				starts[live] = MAKE(alloc_iova_fast(&space, pages[live], limit >> 12, true));
				WARN_ON_ONCE(!starts[live]);
			}
		}
		snprintf(name, sizeof(name), "%s/%lu", kind, count);
		tell(name);
	}
	put_iova_domain(&space);
out:
	vfree(pages);
	vfree(starts);
}

/* With so many pages mapped, some at random are unmapped and as many are mapped again. */
static void many_live(void)
{
	dma_addr_t *mapped = vmalloc(array_size(live_counts[3], sizeof(*mapped)));
	unsigned long count, live = 0, place;
	int size, round, at;
	char name[64];

	if (WARN_ON(!mapped))
		return;
	begin_order();
	for (size = 0; size < ARRAY_SIZE(live_counts); size++) {
		count = live_counts[size];
		for (; live < count; live++) {
			mapped[live] = dma_map_single(dev, memory, SZ_4K, DMA_FROM_DEVICE);
			WARN_ON_ONCE(dma_mapping_error(dev, mapped[live]));
		}
		forget();
		for (round = 0; round < DIV_ROUND_UP(WARM_UP + ROUNDS, TURN); round++) {
			if (round == WARM_UP / TURN)
				forget();
			for (at = 0; at < TURN; at++) {
				place = below(live--);
				unmap(mapped[place], SZ_4K);
				mapped[place] = mapped[live];
			}
			for (at = 0; at < TURN; at++)
				mapped[live++] = map(SZ_4K);
		}
		snprintf(name, sizeof(name), "live/%lu", count);
		tell(name);
	}
	while (live > 0)
		dma_unmap_single(dev, mapped[--live], SZ_4K, DMA_FROM_DEVICE);
	vfree(mapped);
}

static int measure(struct pci_dev *pci, const struct pci_device_id *id)
{
	int error = pcim_enable_device(pci);

	if (error)
		return error;
	pci_set_master(pci);
	dev = &pci->dev;
	error = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (error)
		return error;
	memory = (void *)__get_free_pages(GFP_KERNEL, MEMORY_ORDER);
	if (!memory)
		return -ENOMEM;
	if (strcmp(what, "pool") == 0) {
		pool(false);
	} else {
		nothing();
		singles();
		list();
		ring();
		mixed();
		coherent();
		pool(true);
		domains();
		if (strcmp(what, "all") == 0) {
			addresses("iova", false, TURN);
			addresses("iova-mixed", true, TURN);
			addresses("iova-512", false, LARGE_TURN);
		}
		many_live();
	}
	pr_info("bench done\n");
	free_pages((unsigned long)memory, MEMORY_ORDER);
	return 0;
}

static const struct pci_device_id devices[] = { { PCI_DEVICE(0x1234, 0x11e8) }, {} };
MODULE_DEVICE_TABLE(pci, devices);

static struct pci_driver bench_driver = { .name = "bench", .id_table = devices, .probe = measure };
module_pci_driver(bench_driver);

MODULE_DESCRIPTION("What Linux's DMA API takes");
MODULE_LICENSE("Dual MIT/GPL");
