/**
 * Which module an app's name means, which tiles it runs in, and which ports each gets.
 */

import { pathToFileURL } from "node:url";
import { APPS } from "../apps/registry.ts";
import { joinRanges } from "../tiles/runtime/ports.ts";
import type { AppPlan } from "../tiles/runtime/wiring.ts";
import { type AppConfig, NO_APP_CONFIG } from "./app_config.ts";
import type { RunConfig } from "./config.ts";
import { Exit, UserError } from "./errors.ts";

/** The memory of an app's process, in MiB, where the configuration does not say. */
const MEMORY_MIB = 256;

/**
 * Says which app tiles there are. An app that is named for several ports is one app; where it has
 * instances, the n-th serves those ports that have as many. Throws UserError for an app that is not
 * there, and for what its configuration says in vain.
 */
export function planApps(
  { listen, apps, file }: Pick<RunConfig, "listen" | "apps" | "file">,
): AppPlan[] {
  const unused = Object.keys(apps).find((name) => !listen.some(({ app }) => app === name));
  if (unused !== undefined) {
    throw new UserError(`${file}: apps.${unused}: no port is given to it`, Exit.usage);
  }
  const groups = Map.groupBy(listen, ({ inline, app }) => `${inline} ${app}`);
  return [...groups.values()].flatMap((group) => {
    const [{ app, inline }] = group;
    const config = Object.hasOwn(apps, app) ? apps[app] : NO_APP_CONFIG;
    const plan = planApp(app, { config, inline, file });
    const instances = Math.max(...group.map((one) => one.instances));
    return Array.from({ length: instances }, (_, i) => ({
      ...plan,
      app,
      name: instances === 1 ? app : `${app}.${i + 1}`,
      ports: joinRanges(group.filter((one) => one.instances > i).map(({ ports }) => ports)),
    }));
  });
}

function planApp(
  app: string,
  { config, inline, file }: { config: AppConfig; inline: boolean; file: string | null },
): Omit<AppPlan, "app" | "name" | "ports"> {
  const { module = app, grants: configured, ...told } = config;
  const { options } = told;
  const shipped = Object.hasOwn(APPS, module) ? APPS[module] : undefined;
  const known = shipped?.options ?? Object.keys(options);
  const unknown = Object.keys(options).find((each) => !known.includes(each));
  if (unknown !== undefined) {
    throw new UserError(
      `${file}: apps.${app}.options.${unknown}: ${module} has no such option; ` +
        (known.length === 0 ? "it has none" : `it has ${known.join(", ")}`),
      Exit.usage,
    );
  }
  const grants = { ...configured, clock: configured.clock || shipped?.clock === true };
  if (inline && (grants.keep || [...grants.write, ...grants.env, ...grants.net].length > 0)) {
    throw new UserError(
      `${app}@inline shares the net tile's worker, and can be granted nothing but read and clock`,
      Exit.usage,
    );
  }
  if (inline && (told.memoryMib ?? told.stateBytes) !== undefined) {
    throw new UserError(
      `${app}@inline has no process of its own, and can have neither memory nor state`,
      Exit.usage,
    );
  }
  const memoryMib = inline ? {} : { memoryMib: MEMORY_MIB };
  return { ...memoryMib, ...told, module: appModule(module), grants, inline };
}

function appModule(app: string): string {
  if (Object.hasOwn(APPS, app)) return new URL(`../${APPS[app].module}`, import.meta.url).href;
  if (!app.includes("/")) {
    throw new UserError(
      `there is no app '${app}'; the apps are ${Object.keys(APPS).join(", ")}, or a path such ` +
        "as ./my_app.ts",
      Exit.usage,
    );
  }
  try {
    return pathToFileURL(Deno.realPathSync(app)).href;
  } catch {
    throw new UserError(`cannot read the app module ${app}; check the path`, Exit.usage);
  }
}
