// SPDX-License-Identifier: Apache-2.0
/** The status page of a running tegula, in Chromium without a window. */

import assert from "node:assert/strict";
import {
  Appliance,
  CLIENT,
  Client,
  eventually,
  HOST,
  introduce,
  type Lab,
  labTest,
} from "../lab.ts";
import { Scrape } from "../../../tiles/status/page/overview.ts";
import { Browser, hasBrowser } from "./browser.ts";

const ROOT = `http://${HOST}:9464/`;
/** What all files of the page may have, heads included. */
const MOST_BYTES = 80_000;

/** A tegula with traffic, and a browser on the client's side, which is this process's namespace. */
async function lookedAt(lab: Lab, listen = ["7=echo", "9=discard"]) {
  const [here, host] = [await lab.here("client"), await lab.namespace("host")];
  // A connection that was not closed in order keeps the last test's host, and so its link, for a while.
  await here.ip("link del eth0").catch(() => {});
  await lab.join(
    { namespace: host, name: "eth0", addresses: [`${HOST}/24`] },
    { namespace: here, name: "eth0", addresses: [`${CLIENT}/24`] },
  );
  await introduce({ host, client: here });
  const ports = listen.flatMap((port) => ["--listen", port]);
  const args = ["--interface", "eth0", ...ports, "--metrics", `${HOST}:9464`];
  const start = () => Appliance.start(host, args);
  const appliance = await start();
  const asker = new Client(here);
  await asker.start({ flows: [{ source: CLIENT, target: HOST, port: 7 }], rate: 500 });
  const browser = await Browser.start(here);
  await browser.look({ width: 1280, height: 900, scheme: "light" });
  await browser.open(ROOT);
  return { appliance, start, asker, browser };
}

/** How many pixels of each plot's canvas have the colour of a line, more or less. */
const DRAWN = `[...document.querySelectorAll("canvas")].map((canvas) => {
  // Chromium complains of a canvas that is drawn and read.
  const copy = new OffscreenCanvas(canvas.width, canvas.height)
    .getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  const style = getComputedStyle(document.documentElement);
  const lines = [1, 2, 3, 4, 5, 6, 7].map((i) => style.getPropertyValue("--series-" + i).trim())
    .map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  const isOf = (at, line) => line.every((part, i) => Math.abs(part - data[at + i]) < 20);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 200 && lines.some((line) => isOf(at, line))) count++;
  }
  return count;
})`;

/** The exact numbers in a table, by row and column. */
const TABLE = (name: string) =>
  `(() => {
  const [head, ...rows] = [...document.querySelectorAll("#table-${name} tr")]
    .map((row) => [...row.cells]);
  return Object.fromEntries(rows.map((cells) => [
    cells[0].textContent,
    Object.fromEntries(cells.map((cell, i) => [head[i].textContent, cell.title || cell.textContent])),
  ]));
})()`;
type Cells = Record<string, Record<string, string>>;

labTest("the status page shows the metrics, by tables and plots, dark and light", async (lab) => {
  const { asker, browser } = await lookedAt(lab);
  const lines = () => browser.value<number[]>(DRAWN);
  await eventually("lines in all plots", async () => {
    const drawn = await lines();
    return drawn.length === 5 && drawn.every((pixels) => pixels > 50) ? true : undefined;
  });
  // Where the machine is busy the client sends less in one second and more in the next.
  const row = await eventually("the rate of the traffic", async () => {
    const { eth0 } = await browser.value<Cells>(TABLE("interface"));
    return Math.abs(Number(eth0?.["rx pkt/s"]) - 500) < 100 ? eth0 : undefined;
  });
  assert.equal(row["mode"], "xdp");

  await asker.stop();
  await eventually("the numbers of the metrics", async () => {
    const scrape = new Scrape(await (await fetch(`${ROOT}metrics`)).text(), 0);
    const [interfaces, ports] = [
      await browser.value<Cells>(TABLE("interface")),
      await browser.value<Cells>(TABLE("port")),
    ];
    const same = (metric: string, cell: string) => Number(cell) === scrape.value(metric);
    const all = ["rx", "tx"].every((direction) =>
      same(
        `tegula_interface_packets_total{interface="eth0",direction="${direction}"}`,
        interfaces.eth0[`${direction} total`],
      ) && same(
        `tegula_port_packets_total{app="echo",port="7",direction="${direction}"}`,
        ports["7"][`${direction} total`],
      )
    );
    return all && Number(ports["7"]["rx total"]) > 100 ? true : undefined;
  });
  const tiles = await browser.value<Cells>(TABLE("tile"));
  assert.deepEqual(Object.keys(tiles).sort(), ["discard", "echo", "net0", "netlink", "status"]);
  assert.ok(Object.values(tiles).every(({ state }) => state === "runs"));
  assert.match(await browser.value("facts.textContent"), /^tegula \d.*ready.*synced/);

  const paper = () => browser.value<string>("getComputedStyle(document.body).backgroundColor");
  const light = await paper();
  await browser.look({ width: 1280, height: 900, scheme: "dark" });
  assert.notEqual(await paper(), light);
  await eventually("lines in the dark", async () => {
    return (await lines()).every((pixels) => pixels > 50) ? true : undefined;
  });
  await browser.look({ width: 390, height: 844, scheme: "light", isPhone: true });
  const sizes = await eventually("plots as wide as the phone", async () => {
    const sizes = await browser.value<number[]>(
      "[document.documentElement.scrollWidth, ...[...document.querySelectorAll('.uplot')]" +
        ".map((plot) => plot.getBoundingClientRect().right)]",
    );
    return Math.max(...sizes) <= 390 ? sizes : undefined;
  });
  assert.equal(sizes.length, 6);

  assert.deepEqual(browser.errors, []);
  const files = [...browser.received].filter(([url]) => url !== `${ROOT}metrics`);
  assert.ok(files.length === 6 && files.every(([url]) => url.startsWith(ROOT)), `${files}`);
  const bytes = files.reduce((sum, [, bytes]) => sum + bytes, 0);
  assert.ok(bytes < MOST_BYTES, `${bytes} bytes`);
  await browser.close();
}, { ignore: !hasBrowser() });

labTest("the status page says that there is no answer, and goes on when there is", async (lab) => {
  const { appliance, start, asker, browser } = await lookedAt(lab);
  const state = () => browser.value<string>("state.textContent");
  const says = (pattern: RegExp) =>
    eventually(`${pattern}`, async () => pattern.test(await state()) ? true : undefined);
  await says(/^As of /);
  await asker.stop();
  await appliance.stop();
  await says(/^No answer since \d\d:\d\d:\d\d; trying again\.$/);
  await start();
  await says(/^As of /);
  await browser.close();
}, { ignore: !hasBrowser() });

labTest(
  "the status page of thousands of ports shows the busiest, and how many others there are",
  async (lab) => {
    const { asker, browser } = await lookedAt(lab, ["7=echo", "20000-24000=discard"]);
    await eventually("the port with traffic first", async () => {
      const [first] = Object.entries(await browser.value<Cells>(TABLE("port")));
      return first?.[0] === "7" && Number(first[1]["rx pkt/s"]) > 0 ? true : undefined;
    });
    const rows = await browser.value<number>("document.querySelectorAll('#table-port tr').length");
    const others = await browser.value<string>(
      "document.querySelector('#table-port caption').textContent",
    );
    const { length } = await (await fetch(`${ROOT}metrics`)).text();
    const counted = Number(/^and (\d+) more$/.exec(others)![1]);
    assert.ok(rows === 21 && counted > 100, `${rows} rows, ${others}`);
    // More than the kernel takes of an answer at once.
    assert.ok(length > 100_000, `${length} bytes`);
    assert.deepEqual(browser.errors, []);
    await asker.stop();
    await browser.close();
  },
  { ignore: !hasBrowser() },
);
