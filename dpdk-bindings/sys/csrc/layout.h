/*
 * Offsets inside struct rte_mbuf, as constants that Rust can compile in, so that a packet's bytes are reached
 * without a call. Computed from the headers of the DPDK that is linked; never written down by hand.
 */
#ifndef DPVS_LAYOUT_H
#define DPVS_LAYOUT_H

#include <stddef.h>

#include <rte_mbuf.h>

/** A constant of struct rte_mbuf or of DPDK's build. */
enum dpvs_layout {
	/** Offset of buf_addr: pointer to the buffer. */
	DPVS_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	/** Offset of data_off: 16 bits, where in the buffer the data starts. */
	DPVS_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	/** Offset of nb_segs: 16 bits, number of segments of the packet. */
	DPVS_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	/** Offset of ol_flags: 64 bits. */
	DPVS_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	/** Offset of pkt_len: 32 bits, bytes in all segments. */
	DPVS_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	/** Offset of data_len: 16 bits, bytes in this segment. */
	DPVS_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	/** Offset of hash.rss: 32 bits, valid when DPVS_MBUF_RX_RSS_HASH is set in ol_flags. */
	DPVS_MBUF_HASH_RSS = offsetof(struct rte_mbuf, hash.rss),
	/** Offset of buf_len: 16 bits, size of the buffer. */
	DPVS_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	/** Flag in ol_flags: the NIC has computed the RSS hash. */
	DPVS_MBUF_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH,
	/** Bytes that DPDK keeps free before the data of a new packet. */
	DPVS_HEADROOM = RTE_PKTMBUF_HEADROOM,
	/** Most objects that a mempool keeps in one thread's cache. */
	DPVS_POOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE,
};

#endif
