// SPDX-License-Identifier: Apache-2.0
/**
 * Chromium without a window, told what to do by its DevTools protocol
 * (https://chromedevtools.github.io/devtools-protocol/), in the namespace that the tests run in.
 */

import type { Namespace } from "../../../demo/lab.ts";

/** Of Debian's package chromium-headless-shell. What is on PATH is a script, which its end would not end. */
const PROGRAM = "/usr/lib/chromium/chromium-headless-shell";

/** Whether it is installed. */
export function hasBrowser(): boolean {
  try {
    return Deno.statSync(PROGRAM).isFile;
  } catch {
    return false;
  }
}

// deno-lint-ignore no-explicit-any -- what the protocol says is read by the test
type Said = any;

/** How a page is looked at. */
export interface Look {
  readonly width: number;
  readonly height: number;
  readonly scheme: "dark" | "light";
  readonly isPhone?: boolean;
}

/** One page in a browser of its own. */
export class Browser {
  /** Errors of the console, exceptions, what the network or the content security policy refused. */
  readonly errors: string[] = [];
  /** Bytes of each answer as they came, head and body, by URL. */
  readonly received = new Map<string, number>();
  readonly #socket: WebSocket;
  readonly #answers = new Map<number, PromiseWithResolvers<Said>>();
  readonly #urls = new Map<string, string>();
  #session: string | undefined;
  #onLoad = () => {};
  #number = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#hear(JSON.parse(data));
  }

  /** Starts one in `here`, which must be the namespace of this process. */
  static async start(here: Namespace): Promise<Browser> {
    const profile = Deno.makeTempDirSync({ prefix: "tegula-browser-" });
    const process = here.spawn([
      ...[PROGRAM, "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"],
      ...["--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank"],
    ]);
    const line = await process.stderr.find("DevTools listening on ");
    const socket = new WebSocket(line.slice("DevTools listening on ".length));
    await new Promise((resolve, reject) =>
      Object.assign(socket, { onopen: resolve, onerror: reject })
    );
    const browser = new Browser(socket);
    const { targetInfos } = await browser.#do("Target.getTargets");
    const { targetId } = targetInfos.find(({ type }: Said) => type === "page");
    const attached = await browser.#do("Target.attachToTarget", { targetId, flatten: true });
    browser.#session = attached.sessionId;
    for (const domain of ["Page", "Runtime", "Log", "Network", "Audits"]) {
      await browser.#do(`${domain}.enable`);
    }
    return browser;
  }

  /** Goes to a page, and waits until it has all its files. */
  async open(url: string): Promise<void> {
    const loaded = new Promise<void>((resolve) => this.#onLoad = resolve);
    await this.#do("Page.navigate", { url });
    await loaded;
  }

  async look({ width, height, scheme, isPhone = false }: Look): Promise<void> {
    await this.#do("Emulation.setDeviceMetricsOverride", {
      ...{ width, height, mobile: isPhone, deviceScaleFactor: isPhone ? 2 : 1 },
    });
    const features = [{ name: "prefers-color-scheme", value: scheme }];
    await this.#do("Emulation.setEmulatedMedia", { features });
  }

  /** The value of an expression in the page. */
  async value<Value>(expression: string): Promise<Value> {
    const options = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.#do("Runtime.evaluate", options);
    if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
    return result.value;
  }

  /** A picture of the whole page. */
  async picture(path: string): Promise<void> {
    const options = { format: "png", captureBeyondViewport: true };
    const { data } = await this.#do("Page.captureScreenshot", options);
    Deno.writeFileSync(path, Uint8Array.fromBase64(data));
  }

  /** Ends it. */
  async close(): Promise<void> {
    this.#session = undefined;
    await this.#do("Browser.close");
    this.#socket.close();
  }

  #do(method: string, params: object = {}): Promise<Said> {
    const id = ++this.#number;
    const answer = Promise.withResolvers<Said>();
    this.#answers.set(id, answer);
    this.#socket.send(JSON.stringify({ id, method, params, sessionId: this.#session }));
    return answer.promise;
  }

  #hear({ id, result, error, method, params }: Said): void {
    if (id !== undefined) {
      const answer = this.#answers.get(id)!;
      this.#answers.delete(id);
      if (error === undefined) answer.resolve(result);
      else answer.reject(new Error(error.message));
    } else if (method === "Page.loadEventFired") {
      this.#onLoad();
    } else if (method === "Runtime.consoleAPICalled") {
      this.errors.push(`console.${params.type}: ${JSON.stringify(params.args)}`);
    } else if (method === "Runtime.exceptionThrown") {
      this.errors.push(JSON.stringify(params.exceptionDetails));
    } else if (method === "Log.entryAdded") {
      this.errors.push(`${params.entry.level}: ${params.entry.text} ${params.entry.url ?? ""}`);
    } else if (method === "Audits.issueAdded") {
      this.errors.push(JSON.stringify(params.issue));
    } else if (method === "Network.requestWillBeSent") {
      this.#urls.set(params.requestId, params.request.url);
    } else if (method === "Network.loadingFailed") {
      this.errors.push(`${this.#urls.get(params.requestId)}: ${params.errorText}`);
    } else if (method === "Network.loadingFinished") {
      const url = this.#urls.get(params.requestId)!;
      this.received.set(url, (this.received.get(url) ?? 0) + params.encodedDataLength);
    }
  }
}
