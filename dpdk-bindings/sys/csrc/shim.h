/*
 * What dpvs uses of DPDK, as plain C functions and structs of its own.
 *
 * Many functions of DPDK are inline, and many of its structs are packed, aligned or full of bit fields, none of
 * which bindgen can express; here they are neither. Only interfaces that DPDK 22.11 and 24.11 share are used.
 *
 * Functions that return int return 0 or a negative errno value unless they say otherwise.
 */
#ifndef DPVS_SHIM_H
#define DPVS_SHIM_H

#include <stddef.h>
#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;

/* ---- EAL ---- */

/** Initialises EAL. If captured, what it writes to stdout and stderr is collected instead of shown. */
int dpvs_eal_init(int argc, char **argv, int captured);

/** "DPDK 22.11.11" and the like. */
const char *dpvs_version(void);

/** Text for an errno value, DPDK's own ones included; valid until the thread's next call. */
const char *dpvs_strerror(int error);

/** Directory that EAL loads drivers from. */
const char *dpvs_driver_directory(void);

/** Starts to collect log messages of level warning and above, and forgets those collected before. */
void dpvs_log_capture(void);

/** Ends collecting: from now on log messages of level error and above go to DPDK's default, stderr and syslog. */
void dpvs_log_release(void);

/** Copies what was collected, at most size bytes (the latest), and returns how many. */
size_t dpvs_log_read(char *buffer, size_t size);

/** Gives the calling thread an lcore id, and with it a cache in every mempool. */
int dpvs_thread_register(void);

/** Takes the calling thread's lcore id back. */
void dpvs_thread_unregister(void);

/** Creates the device name on a bus ("vdev", "pci") and probes it. */
int dpvs_device_add(const char *bus, const char *name, const char *arguments);

/* ---- Packet buffers ---- */

/** Creates a pool of mbufs, which stays until the process ends; NULL on failure, with the reason (an errno value) in *error. */
struct rte_mempool *dpvs_pool_create(const char *name, uint32_t buffers, uint32_t cache, uint16_t data_room,
				     int socket, int *error);

/** Number of mbufs now in the pool and its caches. */
uint32_t dpvs_pool_available(const struct rte_mempool *pool);

/** Number of mbufs the pool was made with. */
uint32_t dpvs_pool_size(const struct rte_mempool *pool);

/** An mbuf without data, or NULL. */
struct rte_mbuf *dpvs_mbuf_alloc(struct rte_mempool *pool);

/** Fills mbufs with count mbufs without data, or with none: then the result is negative. */
int dpvs_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);

/** Frees a packet with all its segments. */
void dpvs_mbuf_free(struct rte_mbuf *mbuf);

/** Frees count packets. */
void dpvs_mbuf_free_bulk(struct rte_mbuf **mbufs, unsigned int count);

/* ---- Ports ---- */

/** What a port's driver says about it. */
struct dpvs_port_info {
	/** Name of the driver, such as net_tap; NUL-terminated. */
	char driver[64];
	/** NUMA node, or -1. */
	int32_t socket;
	/** Most receive queues. */
	uint16_t max_rx_queues;
	/** Most transmit queues. */
	uint16_t max_tx_queues;
	/** Smallest MTU. */
	uint16_t min_mtu;
	/** Largest MTU. */
	uint16_t max_mtu;
	/** Entries of the RSS redirection table; 0 without RSS. */
	uint16_t reta_size;
	/** Bytes of the RSS key; 0 when the driver does not say. */
	uint8_t rss_key_size;
	/** Nonzero when RSS covers TCP and UDP on IPv4 and IPv6 by addresses and ports. */
	uint8_t rss_l4;
};

/** How to configure a port. */
struct dpvs_port_config {
	/** Receive queues. */
	uint16_t rx_queues;
	/** Transmit queues. */
	uint16_t tx_queues;
	/** MTU. */
	uint16_t mtu;
	/** Bytes at rss_key; 0 switches RSS off. */
	uint8_t rss_key_size;
	/** The RSS key. */
	const uint8_t *rss_key;
};

/** Counters of a port since it was started. */
struct dpvs_port_stats {
	/** Packets received. */
	uint64_t rx_packets;
	/** Packets sent. */
	uint64_t tx_packets;
	/** Bytes received. */
	uint64_t rx_bytes;
	/** Bytes sent. */
	uint64_t tx_bytes;
	/** Packets the NIC dropped because the receive queues were full. */
	uint64_t rx_missed;
	/** Erroneous packets received. */
	uint64_t rx_errors;
	/** Packets that could not be sent. */
	uint64_t tx_errors;
	/** Packets dropped because there was no mbuf. */
	uint64_t rx_no_buffer;
};

/** Number of the port of a device. */
int dpvs_port_by_name(const char *name, uint16_t *port);

/** Number of the first port from port on; negative when there is none. */
int dpvs_port_next(uint16_t port);

/** Name of the port's device, in a buffer of 64 bytes. */
int dpvs_port_name(uint16_t port, char name[64]);

/** What the driver says about the port. */
int dpvs_port_info(uint16_t port, struct dpvs_port_info *info);

/** Sets queue counts, MTU and RSS of a stopped port. */
int dpvs_port_configure(uint16_t port, const struct dpvs_port_config *config);

/** Fits numbers of descriptors to what the driver can do. */
int dpvs_port_adjust_descriptors(uint16_t port, uint16_t *rx, uint16_t *tx);

/** Sets up a receive queue of a configured port; its buffers come from pool. */
int dpvs_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors, struct rte_mempool *pool);

/** Sets up a transmit queue of a configured port. */
int dpvs_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t descriptors);

/** Starts a port. */
int dpvs_port_start(uint16_t port);

/** Stops a port. */
int dpvs_port_stop(uint16_t port);

/** Closes a stopped port: its queues and their mbufs are freed. */
int dpvs_port_close(uint16_t port);

/** Switches promiscuous mode. */
int dpvs_port_set_promiscuous(uint16_t port, int on);

/** The MAC address. */
int dpvs_port_mac(uint16_t port, uint8_t mac[6]);

/** Changes the MAC address. */
int dpvs_port_set_mac(uint16_t port, const uint8_t mac[6]);

/** The MTU. */
int dpvs_port_mtu(uint16_t port, uint16_t *mtu);

/** Changes the MTU. */
int dpvs_port_set_mtu(uint16_t port, uint16_t mtu);

/** Whether the link is up, and its speed in Mbit/s. Does not wait. */
int dpvs_port_link(uint16_t port, int *up, uint32_t *speed);

/** The counters. */
int dpvs_port_stats(uint16_t port, struct dpvs_port_stats *stats);

/** The RSS key in force; its size goes from *size (room) to *size (bytes). */
int dpvs_port_rss_key(uint16_t port, uint8_t *key, uint8_t *size);

/** Writes the redirection table: entry i is the queue of hash values whose low bits are i. */
int dpvs_port_set_reta(uint16_t port, const uint16_t *queues, uint16_t size);

/** Reads the redirection table. */
int dpvs_port_reta(uint16_t port, uint16_t *queues, uint16_t size);

/* ---- Bursts ---- */

/** Receives up to count packets and returns how many. */
uint16_t dpvs_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/** Sends up to count packets and returns how many, counted from the first; those are no longer the caller's. */
uint16_t dpvs_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

#endif
