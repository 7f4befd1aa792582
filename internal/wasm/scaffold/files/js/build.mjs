// Makes a component of the module and of a JavaScript engine. build.sh calls it.
import { componentize } from "@bytecodealliance/componentize-js";
import { readFileSync, writeFileSync } from "node:fs";

const [name] = process.argv.slice(2);
const { component } = await componentize(readFileSync(`${name}.js`, "utf8"), {
  witWorld: readFileSync("sluice-gateway.wit", "utf8"),
  worldName: "module",
  disableFeatures: ["random", "stdio", "clocks", "http", "fetch-event"],
});
writeFileSync(`${name}.wasm`, component);
console.log(`${name}.wasm: ${component.length} bytes`);
