// SPDX-License-Identifier: Apache-2.0
/**
 * The apps that ship, by the name that `--listen` takes. To add one, write its module in this folder,
 * in the form of `echo.ts`, and list it here. `docs/apps.md` describes what an app can do.
 */

interface ShippedApp {
  /** Path of its module in the source tree. */
  readonly module: string;
  /** Names of the options that it takes from `[apps.NAME.options]`. */
  readonly options: readonly string[];
  /** Its slow side, if the configuration has one of these options of the app, or `tcp`. */
  readonly beside?: { readonly module: string; readonly if: readonly string[] };
  /** Set if the app is granted the host's clock without `clock = true` in the configuration. */
  readonly clock?: true;
  /** Set if it has `packet_times` unless the configuration says otherwise. */
  readonly packetTimes?: true;
}

/** All apps, in the order of help texts and errors. */
export const APPS: Readonly<Record<string, ShippedApp>> = {
  balance: {
    module: "apps/balance.ts",
    options: ("addresses allow backends backends_file burst check check_port idle_timeout " +
      "probe probe_failures probe_seconds ratelimit resolve").split(" "),
    beside: { module: "apps/balance_beside.ts", if: ["backends_file", "check", "resolve"] },
  },
  discard: { module: "apps/discard.ts", options: [] },
  dns: {
    module: "apps/dns/dns.ts",
    options: "nsid rrl_ratelimit rrl_slip tcp_count tcp_timeout version zone".split(" "),
    beside: { module: "apps/dns/tcp.ts", if: ["tcp"] },
  },
  echo: { module: "apps/echo.ts", options: [] },
  ntp: {
    module: "apps/ntp.ts",
    options: ["burst", "ratelimit", "reference", "stratum"],
    clock: true,
    packetTimes: true,
  },
  statsd: { module: "apps/statsd.ts", options: ["interval"] },
  time: { module: "apps/time.ts", options: [] },
};
