/**
 * Names and numbers of rtnetlink as the kernel's headers have them, those that Tegula reads or
 * writes. Grouped as the headers are, one object per enumeration, the kernel's prefix kept, so that
 * a name can be searched for in both. What is kept in netbase has its names there: types, scopes
 * and flags of routes in `netbase/route.ts`, states of neighbours in `netbase/neighbors.ts`, flags
 * of interfaces in `netbase/interfaces.ts`.
 */

/** Address families (socket.h). */
export const AF_UNSPEC = 0;
export const AF_INET = 2;

/** Message types of netlink itself (linux/netlink.h). */
export const NLMSG_NOOP = 1;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;

/** Bytes of `struct nlmsghdr`, and of `struct nlattr` alike. */
export const NLMSG_HDRLEN = 16;
export const NLA_HDRLEN = 4;
/** Bytes of the family headers that requests and messages begin with. */
export const IFINFOMSG_BYTES = 16;
export const IFADDRMSG_BYTES = 8;
export const RTMSG_BYTES = 12;
export const NDMSG_BYTES = 12;
export const NDTMSG_BYTES = 4;
export const NHMSG_BYTES = 8;
export const FIB_RULE_HDR_BYTES = 12;
/** Padded, as strict checking wants it. */
export const NETCONFMSG_BYTES = 4;
/** What is left of an attribute's type without NLA_F_NESTED and NLA_F_NET_BYTEORDER. */
export const NLA_TYPE_MASK = 0x3fff;

/** Flags of `nlmsg_flags` (linux/netlink.h). The second group holds for RTM_NEW… only. */
export const NLM_F_REQUEST = 0x1;
export const NLM_F_MULTI = 0x2;
export const NLM_F_DUMP_INTR = 0x10;
export const NLM_F_DUMP = 0x300;
export { NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE } from "../../netbase/route.ts";

/** Message types of rtnetlink (linux/rtnetlink.h). */
export const RTM_NEWLINK = 16;
export const RTM_DELLINK = 17;
export const RTM_GETLINK = 18;
export const RTM_NEWADDR = 20;
export const RTM_DELADDR = 21;
export const RTM_GETADDR = 22;
export const RTM_NEWROUTE = 24;
export const RTM_DELROUTE = 25;
export const RTM_GETROUTE = 26;
export const RTM_NEWNEIGH = 28;
export const RTM_DELNEIGH = 29;
export const RTM_GETNEIGH = 30;
export const RTM_NEWRULE = 32;
export const RTM_DELRULE = 33;
export const RTM_GETRULE = 34;
export const RTM_NEWNEIGHTBL = 64;
export const RTM_GETNEIGHTBL = 66;
export const RTM_NEWNETCONF = 80;
export const RTM_DELNETCONF = 81;
export const RTM_GETNETCONF = 82;
export const RTM_NEWNEXTHOP = 104;
export const RTM_DELNEXTHOP = 105;
export const RTM_GETNEXTHOP = 106;

/** Multicast groups (enum rtnetlink_groups). NEXTHOP lies beyond the legacy bitmask of bind(2). */
export const RTNLGRP_LINK = 1;
export const RTNLGRP_NEIGH = 3;
export const RTNLGRP_IPV4_IFADDR = 5;
export const RTNLGRP_IPV4_ROUTE = 7;
export const RTNLGRP_IPV4_RULE = 8;
export const RTNLGRP_IPV4_NETCONF = 24;
export const RTNLGRP_NEXTHOP = 32;

/** Attributes of links (linux/if_link.h), of their IFLA_LINKINFO and of a VLAN's IFLA_INFO_DATA. */
export const IFLA_ADDRESS = 1;
export const IFLA_BROADCAST = 2;
export const IFLA_IFNAME = 3;
export const IFLA_MTU = 4;
export const IFLA_LINK = 5;
export const IFLA_MASTER = 10;
export const IFLA_OPERSTATE = 16;
export const IFLA_LINKINFO = 18;
export const IFLA_LINK_NETNSID = 37;
export const IFLA_INFO_KIND = 1;
export const IFLA_INFO_DATA = 2;
export const IFLA_VLAN_ID = 1;
export const IFLA_VLAN_PROTOCOL = 5;

/** Attributes and flags of addresses (linux/if_addr.h). */
export const IFA_ADDRESS = 1;
export const IFA_LOCAL = 2;
export const IFA_LABEL = 3;
export const IFA_BROADCAST = 4;
export const IFA_FLAGS = 8;
export const IFA_F_SECONDARY = 0x01;

/** Attributes of interfaces' settings, and the indices that stand for none of them (linux/netconf.h). */
export const NETCONFA_IFINDEX = 1;
export const NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN = 6;
export const NETCONFA_IFINDEX_ALL = -1;
export const NETCONFA_IFINDEX_DEFAULT = -2;

/** Attributes of routes (linux/rtnetlink.h), and the one metric that is used. */
export const RTA_DST = 1;
export const RTA_SRC = 2;
export const RTA_OIF = 4;
export const RTA_GATEWAY = 5;
export const RTA_PRIORITY = 6;
export const RTA_PREFSRC = 7;
export const RTA_METRICS = 8;
export const RTA_MULTIPATH = 9;
export const RTA_TABLE = 15;
export const RTA_VIA = 18;
export const RTA_ENCAP = 22;
export const RTA_NH_ID = 30;
export const RTAX_MTU = 2;

/**
 * Flags of `rtm_flags`: an entry of the route cache; say which table it came from; ask for the
 * route, not for its outcome.
 */
export const RTM_F_CLONED = 0x200;
export const RTM_F_LOOKUP_TABLE = 0x1000;
export const RTM_F_FIB_MATCH = 0x2000;

/** Attributes of neighbours (linux/neighbour.h). */
export const NDA_DST = 1;
export const NDA_LLADDR = 2;
export const NDA_CACHEINFO = 3;
export const NDA_FLAGS_EXT = 15;

/** Flags of `ndm_flags` (linux/neighbour.h), and above those eight, as in the kernel, NTF_EXT_*. */
export const NTF_USE = 0x01;
export const NTF_PROXY = 0x08;
export const NTF_EXT_LEARNED = 0x10;
const NTF_MANAGED = 0x100;
/** Entries that somebody keeps: a control plane, or the kernel because it was told to. */
export const NTF_KEPT = NTF_EXT_LEARNED | NTF_MANAGED;

/** Attributes of neighbour tables and their NDTA_PARMS (linux/neighbour.h). */
export const NDTA_THRESH3 = 4;
export const NDTA_CONFIG = 5;
export const NDTA_PARMS = 6;
export const NDTPA_IFINDEX = 1;
export const NDTPA_REACHABLE_TIME = 3;
export const NDTPA_DELAY_PROBE_TIME = 7;

/** Attributes of next-hop objects (linux/nexthop.h). */
export const NHA_ID = 1;
export const NHA_GROUP = 2;
export const NHA_BLACKHOLE = 4;
export const NHA_OIF = 5;
export const NHA_GATEWAY = 6;
export const NHA_ENCAP = 8;
export const NHA_FDB = 11;

/** Attributes of policy rules (linux/fib_rules.h). Priority, table and protocol select nothing. */
export const FRA_PRIORITY = 6;
export const FRA_SUPPRESS_IFGROUP = 13;
export const FRA_SUPPRESS_PREFIXLEN = 14;
export const FRA_TABLE = 15;
export const FRA_PAD = 18;
export const FRA_PROTOCOL = 21;
export const FR_ACT_TO_TBL = 1;
export const FIB_RULE_INVERT = 0x2;
