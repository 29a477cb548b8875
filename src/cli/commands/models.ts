/** @file `precis models`: list the models that can be used without a download. */

import { join } from "node:path";
import { Command } from "commander";
import { describeModel, isDirectory, namesIn } from "../../weights/hub-cache.js";
import { EMBEDDED_MODELS, listCachedModels } from "../../weights/hub.js";
import { formatBytes } from "../../format/sizes.js";
import { formatTable } from "../table.js";

/** One model of `precis models --json`. */
export interface ListedModel {
  /** What to call it: the name of an embedded model, or a hub id. */
  id: string;
  source: "embedded" | "cache";
  /** `model_type` of its config.json. */
  family: string | undefined;
  bytes: number;
  /** Commit of a cached model. */
  revision?: string;
  path: string;
}

interface ModelsOptions {
  cacheDir?: string;
  json?: boolean;
}

const HELP = `
Examples:
  $ precis models                           a table
  $ precis models --json                    an array of {id, source, family, bytes, revision, path}

Any id in the list can be given where a command asks for a model. Add models with "precis pull owner/name".
`;

/** The command `precis models`: embedded models first, then those in the hub cache. */
export function modelsCommand(): Command {
  return new Command("models")
    .description("list the embedded models and those in the hub cache")
    .option("--cache-dir <dir>", "cache folder (default: the standard one of the hub)")
    .option("--json", "print a JSON array")
    .addHelpText("after", HELP)
    .action(listModels);
}

async function listModels({ cacheDir, json = false }: ModelsOptions): Promise<void> {
  const models = [...(await embeddedModels()), ...(await cachedModels(cacheDir))];
  process.stdout.write(`${json ? JSON.stringify(models, null, 2) : describeList(models)}\n`);
}

async function embeddedModels(): Promise<ListedModel[]> {
  const models: ListedModel[] = [];
  for (const id of await namesIn(EMBEDDED_MODELS)) {
    const path = join(EMBEDDED_MODELS, id);
    if (!(await isDirectory(path))) continue;
    const { bytes, modelType: family } = await describeModel(path);
    models.push({ id, source: "embedded", family, bytes, path });
  }
  return models;
}

async function cachedModels(cacheDir: string | undefined): Promise<ListedModel[]> {
  const cached = await listCachedModels(cacheDir);
  return cached.map(({ id, modelType: family, bytes, revision, path }) => ({
    id,
    source: "cache",
    family,
    bytes,
    revision,
    path,
  }));
}

function describeList(models: readonly ListedModel[]): string {
  if (models.length === 0) return 'No models here yet. Download one with "precis pull owner/name".';
  const rows = models.map(({ id, source, family, bytes, path }) => ({
    model: id,
    family: family ?? "unknown",
    size: formatBytes(bytes),
    source,
    path,
  }));
  return formatTable(rows, ["model", "family", { key: "size", align: "right" }, "source", "path"]);
}
