// Libraries stand in a folder of their own, which `run` names: `import` would look beside the file.
import { createRequire } from "node:module";
import { join } from "node:path";

export const load = createRequire(join(process.env.PEER_HOME, "package.json"));

export function version(name) {
  return load(`${name}/package.json`).version;
}
