// SPDX-License-Identifier: Apache-2.0
/** The running program with an app that has a slow side (`tests/fixtures/app/beside`), and a client of both. */

import { ROOT } from "../../ffi/library.ts";
import { configured } from "./config_file.ts";
import {
  Appliance,
  ask,
  eventually,
  HOST,
  introduce,
  type Lab,
  type Namespace,
  pair,
} from "./lab.ts";

export const PORT = 4000;
/** Where its metrics are. */
const METRICS = "127.0.0.1:9464";
const FIXTURE = `${ROOT}tests/fixtures/app/beside`;

/** A configuration with the fixture, and `more` of its section. */
export function config(more = ""): string {
  return [
    `listen = ["${PORT}=slow"]`,
    `metrics = "${METRICS}"`,
    `[apps.slow]`,
    `module = "${FIXTURE}/app.ts"`,
    `beside = "${FIXTURE}/slow.ts"`,
    `tcp = ["${HOST}"]`,
    more,
  ].join("\n");
}

/**
 * The appliance with the fixture, and a client of it. `http`: the answer to an HTTP request; `said`: resolves when the
 * app has this mail.
 */
export async function serving(lab: Lab, more = "", env: Record<string, string> = {}) {
  const { host, client, asker } = await pair(lab);
  await introduce({ host, client });
  const args = configured(config(more));
  const appliance = await Appliance.start(host, args, { env });
  const { stderr } = appliance.process;
  const http = (path: string, ...rest: string[]) => curl(client, path, ...rest);
  const said = (text: string) =>
    eventually(`"${text}" by UDP`, async () => {
      const answer = await ask(asker, { port: PORT, payload: "? asked", timeoutMs: 1000 });
      return answer.text === text || undefined;
    });
  const metrics = () => host.run(["curl", "--silent", `http://${METRICS}/metrics`]);
  return { host, client, asker, appliance, stderr, http, said, metrics, file: args[1] };
}

/** The answer of the slow side; null: there is none. */
async function curl(client: Namespace, path: string, ...rest: string[]): Promise<string | null> {
  const url = `http://${HOST}:${PORT}${path}`;
  try {
    return (await client.run(["curl", "--silent", "--max-time", "5", ...rest, url])).trim();
  } catch {
    return null;
  }
}

/** Repeats a request until the slow side, possibly a new one, answers. */
export function answering(http: (path: string) => Promise<string | null>): Promise<string> {
  return eventually("an answer by TCP", async () => (await http("/")) ?? undefined);
}
