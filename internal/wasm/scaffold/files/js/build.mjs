// Makes a component of the module and of a JavaScript engine. build.sh calls it.
import { readFileSync, writeFileSync } from "node:fs";
import { componentize } from "componentize-qjs";

const [name] = process.argv.slice(2);
const wit = "sluice-gateway.wit";
const jsSource = readFileSync(`${name}.js`, "utf8");

// A hook is called if the world exports it; then the source must have it too.
const world = readFileSync(wit, "utf8").split(/^world module /m)[1] ?? "";
for (const hook of ["on-request", "on-response", "on-chunk", "on-error", "on-end"]) {
  const js = hook.replace(/-./g, (s) => s[1].toUpperCase());
  const exported = new RegExp(`^ *export ${hook};`, "m").test(world);
  const written = new RegExp(`^export\\b.*\\b${js}\\b`, "m").test(jsSource);
  if (exported === written) continue;
  console.error(
    written
      ? `${name}.js has ${js}, and ${wit} does not export it, so it would not be called; add at its end, in "world module": export ${hook};`
      : `${wit} exports ${hook}, and ${name}.js has no "export const ${js} ="; write it, or take the export out of "world module"`,
  );
  process.exit(1);
}

try {
  const { component } = await componentize({ witPath: wit, world: "module", jsSource, jsPath: `${name}.js`, moduleRoot: ".", sync: true });
  writeFileSync(`${name}.wasm`, component);
  console.log(`${name}.wasm: ${Math.round(component.length / 1024)} KiB`);
} catch (err) {
  console.error(
    /unknown import: `sluice:gateway/.test(err.message)
      ? `${name}.js calls the gateway, perhaps by console, outside of its hooks; that is done when it is built, and there is no gateway then`
      : `${name}.js: ${err.message.replace(/^[: ]+/, "")}`,
  );
  process.exit(1);
}
