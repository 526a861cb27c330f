// SPDX-License-Identifier: Apache-2.0
/**
 * Netbase with every load and store of shared memory under the test's control: a copy of netbase/ whose
 * typed arrays and `Atomics` report each access before it is made. At a store of the writer the test
 * may look up with an ordinary reader, or throw, as if the writer had died there. At a load of the
 * reader it may run an ordinary writer.
 */

import type { NetbaseReader } from "../../../netbase/netbase.ts";
import type { NetbaseWriter } from "../../../netbase/netbase_writer.ts";

/** What is called before each load of shared memory, and before each store into it. */
export interface Hook {
  onLoad: () => void;
  onStore: () => void;
}

/** Replaces ffi/region.ts in the copy. */
const HOOKED_REGION = `
export const hook = { onLoad: () => {}, onStore: () => {} };
const targets = new WeakMap();
function hooked(array) {
  const fill = (value, from = 0, to = array.length) => {
    for (let i = from; i < to; i++) { hook.onStore(); array[i] = value; }
  };
  const set = (values, at = 0) => {
    for (let i = 0; i < values.length; i++) { hook.onStore(); array[at + i] = values[i]; }
  };
  const proxy = new Proxy(array, {
    get(target, key) {
      if (key === "fill") return fill;
      if (key === "set") return set;
      if (/^[0-9]/.test(key)) hook.onLoad();
      const value = target[key];
      return typeof value === "function" ? value.bind(target) : value;
    },
    set(target, key, value) { hook.onStore(); target[key] = value; return true; },
  });
  targets.set(proxy, array);
  return proxy;
}
const RealAtomics = globalThis.Atomics;
export const Atomics = {
  load: (array, i) => {
    hook.onLoad();
    return RealAtomics.load(targets.get(array) ?? array, i);
  },
  store: (array, i, value) => {
    hook.onStore();
    return RealAtomics.store(targets.get(array) ?? array, i, value);
  },
};
export function slice(view, byteOffset, byteLength) {
  return { buffer: view.buffer, byteOffset: view.byteOffset + byteOffset, byteLength };
}
export function u16(view) {
  return hooked(new Uint16Array(view.buffer, view.byteOffset, view.byteLength >>> 1));
}
export function u32(view) {
  return hooked(new Uint32Array(view.buffer, view.byteOffset, view.byteLength >>> 2));
}
`;

/** The copy's classes, and the hooks for each load and store. */
export interface Hooked {
  readonly Writer: typeof NetbaseWriter;
  readonly Reader: typeof NetbaseReader;
  readonly hook: Hook;
}

/** Makes the copy in its own folder and loads it. */
export async function loadHooked(): Promise<Hooked> {
  const root = await Deno.makeTempDir({ prefix: "tegula-hooked-" });
  const source = new URL("../../../netbase/", import.meta.url);
  await Deno.mkdir(`${root}/netbase`);
  await Deno.mkdir(`${root}/ffi`);
  await Deno.writeTextFile(`${root}/ffi/region.ts`, HOOKED_REGION);
  for await (const file of Deno.readDir(source)) {
    const text = await Deno.readTextFile(new URL(file.name, source));
    const shadowed = `import { Atomics } from "../ffi/region.ts";\n${text}`;
    await Deno.writeTextFile(`${root}/netbase/${file.name}`, shadowed);
  }
  const { NetbaseReader: Reader } = await import(`file://${root}/netbase/netbase.ts`);
  const { NetbaseWriter: Writer } = await import(`file://${root}/netbase/netbase_writer.ts`);
  const view = await import(`file://${root}/ffi/region.ts`);
  await Deno.remove(root, { recursive: true });
  return { Writer, Reader, hook: view.hook };
}
