#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "shim.h"
#include "layout.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Rust reads these fields through raw pointers of these widths. */
#define ASSERT_WIDTH(field, bytes) \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == (bytes), "width of rte_mbuf." #field)
ASSERT_WIDTH(buf_addr, sizeof(void *));
ASSERT_WIDTH(data_off, 2);
ASSERT_WIDTH(nb_segs, 2);
ASSERT_WIDTH(ol_flags, 8);
ASSERT_WIDTH(pkt_len, 4);
ASSERT_WIDTH(data_len, 2);
ASSERT_WIDTH(hash.rss, 4);
ASSERT_WIDTH(buf_len, 2);
_Static_assert(RTE_ETH_NAME_MAX_LEN <= 64, "device names fit");

/* ---- Log capture ---- */

static struct {
	pthread_mutex_t lock;
	FILE *stream;
	/* Where messages go that precede an abort; the real stderr, even while it is redirected. */
	int stderr_fd;
	size_t used;
	char text[16384];
} capture = {.lock = PTHREAD_MUTEX_INITIALIZER, .stderr_fd = STDERR_FILENO};

static void capture_append(const char *text, size_t size)
{
	if (size > sizeof(capture.text)) {
		text += size - sizeof(capture.text);
		size = sizeof(capture.text);
	}
	pthread_mutex_lock(&capture.lock);
	size_t excess = capture.used + size > sizeof(capture.text) ? capture.used + size - sizeof(capture.text) : 0;
	memmove(capture.text, capture.text + excess, capture.used - excess);
	capture.used -= excess;
	memcpy(capture.text + capture.used, text, size);
	capture.used += size;
	pthread_mutex_unlock(&capture.lock);
}

static ssize_t capture_write(void *cookie, const char *text, size_t size)
{
	(void)cookie;
	int level = rte_log_cur_msg_loglevel();
	if (level >= 0 && (uint32_t)level <= RTE_LOG_CRIT) {
		/* rte_panic() logs at this level and aborts: nobody would read the capture. */
		ssize_t ignored = write(capture.stderr_fd, text, size);
		(void)ignored;
	}
	if (level < 0 || (uint32_t)level <= RTE_LOG_WARNING)
		capture_append(text, size);
	return (ssize_t)size;
}

void dpvs_log_capture(void)
{
	if (capture.stream == NULL) {
		cookie_io_functions_t functions = {.write = capture_write};
		capture.stream = fopencookie(NULL, "w", functions);
	}
	pthread_mutex_lock(&capture.lock);
	capture.used = 0;
	pthread_mutex_unlock(&capture.lock);
	rte_log_set_global_level(RTE_LOG_INFO);
	if (capture.stream != NULL)
		rte_openlog_stream(capture.stream);
}

void dpvs_log_release(void)
{
	rte_log_set_global_level(RTE_LOG_ERR);
	/* The stream stays open: another thread may be writing to it just now. */
	rte_openlog_stream(NULL);
}

size_t dpvs_log_read(char *buffer, size_t size)
{
	pthread_mutex_lock(&capture.lock);
	size_t n = capture.used < size ? capture.used : size;
	memcpy(buffer, capture.text + capture.used - n, n);
	pthread_mutex_unlock(&capture.lock);
	return n;
}

/* ---- EAL ---- */

/* Reads what was written to the file and appends it to the capture. */
static void capture_file(int fd)
{
	char text[4096];
	ssize_t n;
	off_t at = 0;
	while ((n = pread(fd, text, sizeof(text), at)) > 0) {
		capture_append(text, (size_t)n);
		at += n;
	}
}

int dpvs_eal_init(int argc, char **argv, int captured)
{
	/* On errors EAL prints its whole usage text to stdout, and getopt prints to stderr: catch both. */
	fflush(stdout);
	fflush(stderr);
	int file = captured ? memfd_create("eal-output", MFD_CLOEXEC) : -1;
	int saved_out = file < 0 ? -1 : dup(STDOUT_FILENO);
	int saved_err = file < 0 ? -1 : dup(STDERR_FILENO);
	if (saved_out >= 0 && saved_err >= 0) {
		capture.stderr_fd = saved_err;
		dup2(file, STDOUT_FILENO);
		dup2(file, STDERR_FILENO);
	}
	int result = rte_eal_init(argc, argv);
	int error = rte_errno;
	fflush(stdout);
	fflush(stderr);
	if (saved_out >= 0 && saved_err >= 0) {
		dup2(saved_out, STDOUT_FILENO);
		dup2(saved_err, STDERR_FILENO);
		capture.stderr_fd = STDERR_FILENO;
		capture_file(file);
	}
	if (saved_out >= 0)
		close(saved_out);
	if (saved_err >= 0)
		close(saved_err);
	if (file >= 0)
		close(file);
	if (result >= 0)
		return 0;
	return error > 0 ? -error : -EINVAL;
}

const char *dpvs_version(void)
{
	return rte_version();
}

const char *dpvs_strerror(int error)
{
	return rte_strerror(error);
}

const char *dpvs_driver_directory(void)
{
	return RTE_EAL_PMD_PATH;
}

int dpvs_thread_register(void)
{
	return rte_thread_register() == 0 ? 0 : -rte_errno;
}

void dpvs_thread_unregister(void)
{
	rte_thread_unregister();
}

int dpvs_device_add(const char *bus, const char *name, const char *arguments)
{
	return rte_eal_hotplug_add(bus, name, arguments);
}

/* ---- Packet buffers ---- */

struct rte_mempool *dpvs_pool_create(const char *name, uint32_t buffers, uint32_t cache, uint16_t data_room,
				     int socket, int *error)
{
	struct rte_mempool *pool = rte_pktmbuf_pool_create(name, buffers, cache, 0, data_room, socket);
	*error = pool == NULL ? rte_errno : 0;
	return pool;
}

uint32_t dpvs_pool_available(const struct rte_mempool *pool)
{
	return rte_mempool_avail_count(pool);
}

uint32_t dpvs_pool_size(const struct rte_mempool *pool)
{
	return pool->size;
}

struct rte_mbuf *dpvs_mbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int dpvs_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void dpvs_mbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

void dpvs_mbuf_free_bulk(struct rte_mbuf **mbufs, unsigned int count)
{
	rte_pktmbuf_free_bulk(mbufs, count);
}

/* ---- Ports ---- */

/* TCP and UDP by addresses and ports. */
#define RSS_L4 (RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP | \
		RTE_ETH_RSS_NONFRAG_IPV6_TCP | RTE_ETH_RSS_NONFRAG_IPV6_UDP)
/* Everything else by addresses, where the NIC can. */
#define RSS_L3 (RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_FRAG_IPV4 | RTE_ETH_RSS_NONFRAG_IPV4_OTHER | \
		RTE_ETH_RSS_IPV6 | RTE_ETH_RSS_FRAG_IPV6 | RTE_ETH_RSS_NONFRAG_IPV6_OTHER)

int dpvs_port_by_name(const char *name, uint16_t *port)
{
	return rte_eth_dev_get_port_by_name(name, port);
}

int dpvs_port_next(uint16_t port)
{
	uint64_t next = rte_eth_find_next(port);
	return next < RTE_MAX_ETHPORTS ? (int)next : -ENODEV;
}

int dpvs_port_name(uint16_t port, char name[64])
{
	return rte_eth_dev_get_name_by_port(port, name);
}

int dpvs_port_info(uint16_t port, struct dpvs_port_info *out)
{
	struct rte_eth_dev_info info;
	int result = rte_eth_dev_info_get(port, &info);
	if (result != 0)
		return result;
	memset(out, 0, sizeof(*out));
	snprintf(out->driver, sizeof(out->driver), "%s", info.driver_name == NULL ? "" : info.driver_name);
	out->socket = rte_eth_dev_socket_id(port);
	out->max_rx_queues = info.max_rx_queues;
	out->max_tx_queues = info.max_tx_queues;
	out->min_mtu = info.min_mtu;
	out->max_mtu = info.max_mtu;
	out->reta_size = info.reta_size;
	out->rss_key_size = info.hash_key_size;
	out->rss_l4 = (info.flow_type_rss_offloads & RSS_L4) == RSS_L4;
	return 0;
}

int dpvs_port_configure(uint16_t port, const struct dpvs_port_config *config)
{
	struct rte_eth_dev_info info;
	int result = rte_eth_dev_info_get(port, &info);
	if (result != 0)
		return result;
	struct rte_eth_conf conf;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = config->mtu;
	if (config->rss_key_size != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rxmode.offloads = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_RSS_HASH;
		/* DPDK does not write to the key. */
		conf.rx_adv_conf.rss_conf.rss_key = (uint8_t *)(uintptr_t)config->rss_key;
		conf.rx_adv_conf.rss_conf.rss_key_len = config->rss_key_size;
		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & (RSS_L4 | RSS_L3);
	}
	/* Every mbuf that is sent comes from the one pool and has one owner, which is what fast free asks. */
	conf.txmode.offloads = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
	return rte_eth_dev_configure(port, config->rx_queues, config->tx_queues, &conf);
}

int dpvs_port_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx)
{
	return rte_eth_dev_adjust_nb_rx_tx_desc(port, rx, tx);
}

int dpvs_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, struct rte_mempool *pool)
{
	return rte_eth_rx_queue_setup(port, queue, descriptors, (unsigned int)rte_eth_dev_socket_id(port), NULL, pool);
}

int dpvs_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors)
{
	return rte_eth_tx_queue_setup(port, queue, descriptors, (unsigned int)rte_eth_dev_socket_id(port), NULL);
}

int dpvs_port_start(uint16_t port)
{
	return rte_eth_dev_start(port);
}

int dpvs_port_stop(uint16_t port)
{
	return rte_eth_dev_stop(port);
}

int dpvs_port_close(uint16_t port)
{
	return rte_eth_dev_close(port);
}

int dpvs_port_set_promiscuous(uint16_t port, int on)
{
	return on ? rte_eth_promiscuous_enable(port) : rte_eth_promiscuous_disable(port);
}

int dpvs_port_mac(uint16_t port, uint8_t mac[6])
{
	struct rte_ether_addr addr;
	int result = rte_eth_macaddr_get(port, &addr);
	if (result == 0)
		memcpy(mac, addr.addr_bytes, 6);
	return result;
}

int dpvs_port_set_mac(uint16_t port, const uint8_t mac[6])
{
	struct rte_ether_addr addr;
	memcpy(addr.addr_bytes, mac, 6);
	return rte_eth_dev_default_mac_addr_set(port, &addr);
}

int dpvs_port_mtu(uint16_t port, uint16_t *mtu)
{
	return rte_eth_dev_get_mtu(port, mtu);
}

int dpvs_port_set_mtu(uint16_t port, uint16_t mtu)
{
	return rte_eth_dev_set_mtu(port, mtu);
}

int dpvs_port_link(uint16_t port, int *up, uint32_t *speed)
{
	struct rte_eth_link link;
	memset(&link, 0, sizeof(link));
	int result = rte_eth_link_get_nowait(port, &link);
	*up = link.link_status == RTE_ETH_LINK_UP;
	*speed = link.link_speed;
	return result;
}

int dpvs_port_stats(uint16_t port, struct dpvs_port_stats *out)
{
	struct rte_eth_stats stats;
	int result = rte_eth_stats_get(port, &stats);
	if (result != 0)
		return result;
	out->rx_packets = stats.ipackets;
	out->tx_packets = stats.opackets;
	out->rx_bytes = stats.ibytes;
	out->tx_bytes = stats.obytes;
	out->rx_missed = stats.imissed;
	out->rx_errors = stats.ierrors;
	out->tx_errors = stats.oerrors;
	out->rx_no_buffer = stats.rx_nombuf;
	return 0;
}

int dpvs_port_rss_key(uint16_t port, uint8_t *key, uint8_t *size)
{
	struct rte_eth_rss_conf conf;
	memset(&conf, 0, sizeof(conf));
	conf.rss_key = key;
	conf.rss_key_len = *size;
	int result = rte_eth_dev_rss_hash_conf_get(port, &conf);
	if (result == 0 && conf.rss_key_len < *size && conf.rss_key_len != 0)
		*size = conf.rss_key_len;
	return result;
}

/* The largest table of any NIC, in groups of RTE_ETH_RETA_GROUP_SIZE entries. */
#define RETA_GROUPS (RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE)

int dpvs_port_set_reta(uint16_t port, const uint16_t *queues, uint16_t size)
{
	struct rte_eth_rss_reta_entry64 table[RETA_GROUPS];
	if (size > RTE_ETH_RSS_RETA_SIZE_512)
		return -EINVAL;
	memset(table, 0, sizeof(table));
	for (uint16_t i = 0; i < size; i++) {
		struct rte_eth_rss_reta_entry64 *group = &table[i / RTE_ETH_RETA_GROUP_SIZE];
		group->mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
		group->reta[i % RTE_ETH_RETA_GROUP_SIZE] = queues[i];
	}
	return rte_eth_dev_rss_reta_update(port, table, size);
}

int dpvs_port_reta(uint16_t port, uint16_t *queues, uint16_t size)
{
	struct rte_eth_rss_reta_entry64 table[RETA_GROUPS];
	if (size > RTE_ETH_RSS_RETA_SIZE_512)
		return -EINVAL;
	memset(table, 0, sizeof(table));
	for (uint16_t i = 0; i < size; i++)
		table[i / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1) << (i % RTE_ETH_RETA_GROUP_SIZE);
	int result = rte_eth_dev_rss_reta_query(port, table, size);
	for (uint16_t i = 0; result == 0 && i < size; i++)
		queues[i] = table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
	return result;
}

/* ---- Bursts ---- */

uint16_t dpvs_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t dpvs_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}
