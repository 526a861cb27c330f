/**
 * Which module an app's name means, and which ports it gets.
 *
 * @module
 */

import { pathToFileURL } from "node:url";
import type { AppPlan } from "../tiles/runtime/wiring.ts";
import type { Listen } from "./config.ts";
import { Exit, UserError } from "./errors.ts";

/** Apps that ship; each is `tiles/app/NAME.ts`. */
const SHIPPED = ["discard", "echo", "time"];

/** Groups the ports by the app that answers on them. Throws UserError for an app that is not there. */
export function planApps(listen: readonly Listen[]): AppPlan[] {
  const ports = new Map<string, number[]>();
  for (const { app, port } of listen) ports.set(app, [...ports.get(app) ?? [], port]);
  return [...ports].map(([app, its]) => ({
    name: app,
    module: appModule(app),
    ports: its,
    options: {},
  }));
}

/** Whether `app` is a module of the user's own. */
export function isOwnModule({ name }: AppPlan): boolean {
  return name.includes("/");
}

function appModule(app: string): string {
  if (SHIPPED.includes(app)) return new URL(`../tiles/app/${app}.ts`, import.meta.url).href;
  if (!app.includes("/")) {
    throw new UserError(
      `there is no app '${app}'; the apps are ${SHIPPED.join(", ")}, or a path such as ./my_app.ts`,
      Exit.usage,
    );
  }
  try {
    return pathToFileURL(Deno.realPathSync(app)).href;
  } catch {
    throw new UserError(`cannot read the app module ${app}; check the path`, Exit.usage);
  }
}
