/** @file What people deploy with fits together and fits the program: image, compose file, chart. */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { serveCommand } from "#precis/cli/commands/serve.js";
import { workerCommand } from "#precis/cli/commands/worker.js";
import { renderChart, type Manifest } from "./chart.js";

const root = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const read = (path: string): string => readFileSync(root(path), "utf8");

const COMMANDS: Readonly<Record<string, () => Command>> = { serve: serveCommand, worker: workerCommand };

/** Parses a command line with the program's own parser, and gives the options. */
function parsed(words: readonly string[]): Record<string, unknown> {
  const [name = "", ...args] = words;
  const command = COMMANDS[name]?.();
  if (command === undefined) throw new Error(`There is no precis ${name}.`);
  command
    .exitOverride()
    .configureOutput({ writeErr: () => undefined })
    .action(() => undefined);
  return command.parse(args, { from: "user" }).opts();
}

describe("the image", () => {
  const lines = read("deploy/Dockerfile")
    .replaceAll("\\\n", " ")
    .split("\n")
    .filter((line) => /^[A-Z]/.test(line));
  const of = (instruction: string): string[] =>
    lines.filter((line) => line.startsWith(`${instruction} `)).map((line) => line.slice(instruction.length + 1));

  test("is set up and built by the commands of the README, on a Node that the package takes", () => {
    const runs = of("RUN").flatMap((line) => line.split("&&").map((command) => command.trim()));
    expect(runs.slice(0, 2)).toEqual(["npm ci --ignore-scripts", "npm run build"]);
    expect(read("README.md")).toContain("npm ci --ignore-scripts");
    const { scripts, engines } = JSON.parse(read("package.json")) as {
      scripts: Record<string, string>;
      engines: { node: string };
    };
    expect(scripts["build"]).toBeDefined();
    for (const from of of("FROM")) expect(from).toMatch(/^node:20-/);
    expect(engines.node).toBe(">=20.19");
  });

  test("copies what is there and what its ignore file lets through", () => {
    const allowed = read("deploy/Dockerfile.dockerignore")
      .split("\n")
      .filter((line) => line.startsWith("!"))
      .map((line) => line.slice(1));
    const copied = of("COPY")
      .filter((line) => !line.startsWith("--from"))
      .flatMap((line) => line.split(" ").slice(0, -1));
    expect(copied.length).toBeGreaterThan(5);
    for (const path of copied) {
      expect(existsSync(root(path)), path).toBe(true);
      expect(
        allowed.some((prefix) => path === prefix || path.startsWith(`${prefix}/`)),
        path,
      ).toBe(true);
    }
  });

  test("starts the program with options that it has", () => {
    const { bin } = JSON.parse(read("package.json")) as { bin: { precis: string } };
    expect(JSON.parse(of("ENTRYPOINT")[0] as string)).toEqual(["node", bin.precis.slice(2)]);
    const words = JSON.parse(of("CMD")[0] as string) as string[];
    expect(parsed(words)).toMatchObject({ host: "0.0.0.0", port: 8080, store: "/data/sessions", json: true });
    expect(of("EXPOSE")).toEqual(["8080"]);
  });
});

interface Service {
  command?: string[];
  build?: { context: string; dockerfile: string };
  environment?: Record<string, string>;
  depends_on?: Record<string, unknown> | string[];
  volumes?: string[];
  expose?: string[];
  stop_grace_period?: string;
}

describe("the compose file", () => {
  const { services, volumes } = parse(read("deploy/compose.yaml"), { merge: true }) as {
    services: Record<string, Service>;
    volumes: Record<string, unknown>;
  };
  const service = (name: string): Service => services[name] as Service;

  test("starts programs with options that they have, on one store", () => {
    const serve = parsed(service("serve").command ?? []);
    const worker = parsed(service("worker").command ?? []);
    expect(serve["store"]).toBe(worker["queue"]);
    expect(new URL(serve["store"] as string)).toMatchObject({ hostname: "valkey", port: "6379" });
    // Others than this machine may call, so there must be a key.
    expect(serve["host"]).toBe("0.0.0.0");
    expect(service("serve").environment?.["PRECIS_API_KEY"]).toMatch(/^\$\{PRECIS_API_KEY:\?/);
    expect(service("worker").environment?.["PRECIS_STORE_KEY"]).toBe(
      service("serve").environment?.["PRECIS_STORE_KEY"],
    );
    expect(parseInt(service("serve").stop_grace_period ?? "", 10)).toBeGreaterThan(serve["grace"] as number);
  });

  test("names nothing that is not there", () => {
    for (const { depends_on: needed = [], volumes: mounted = [], build } of Object.values(services)) {
      for (const name of Array.isArray(needed) ? needed : Object.keys(needed)) expect(services).toHaveProperty(name);
      for (const source of mounted.map((line) => line.split(":")[0] as string)) {
        if (source.startsWith(".")) expect(existsSync(root(`deploy/${source}`)), source).toBe(true);
        else expect(volumes).toHaveProperty(source);
      }
      if (build !== undefined) expect(existsSync(root(build.dockerfile))).toBe(true);
    }
    expect(read("deploy/Caddyfile")).toContain(`dynamic a serve ${service("serve").expose?.[0]}`);
  });
});

interface Container {
  args: string[];
  image: string;
  ports?: { name: string; containerPort: number }[];
  envFrom?: { secretRef: { name: string } }[];
  readinessProbe?: { httpGet?: { path: string; port: string } };
  resources: { requests: Record<string, string> };
}
interface PodSpec {
  containers: Container[];
  terminationGracePeriodSeconds: number;
}

describe("the chart", () => {
  const chart = root("deploy/helm/precis");
  const named = (manifests: readonly Manifest[], kind: string, name: string): Manifest => {
    const found = manifests.find((manifest) => manifest.kind === kind && manifest.metadata.name === name);
    if (found === undefined) throw new Error(`There is no ${kind} ${name}.`);
    return found;
  };
  const template = ({ spec }: Manifest): { metadata: { labels: Record<string, string> }; spec: PodSpec } =>
    spec["template"] as never;
  const container = (manifest: Manifest): Container => template(manifest).spec.containers[0] as Container;
  const labels = ({ spec }: Manifest, field: "selector"): Record<string, string> => {
    const selector = spec[field] as Record<string, never>;
    return selector["matchLabels"] ?? selector;
  };

  test("makes servers, workers and a store that find each other", () => {
    const manifests = renderChart(chart, { apiKey: "sk-secret" });
    const serve = named(manifests, "Deployment", "test-serve");
    const worker = named(manifests, "Deployment", "test-worker");
    const valkey = named(manifests, "StatefulSet", "test-valkey");
    for (const manifest of [serve, worker, valkey]) {
      expect(template(manifest).metadata.labels).toMatchObject(labels(manifest, "selector"));
    }
    for (const [name, target] of [
      ["test", serve],
      ["test-valkey", valkey],
    ] as const) {
      const service = named(manifests, "Service", name);
      expect(template(target).metadata.labels).toMatchObject(labels(service, "selector"));
      const [port] = service.spec["ports"] as unknown as { targetPort: string }[];
      expect(container(target).ports?.map((candidate) => candidate.name)).toEqual([port?.targetPort]);
    }
    const options = parsed(container(serve).args);
    expect(options).toMatchObject({ host: "0.0.0.0", port: 8080, memory: 1e9, store: "redis://test-valkey:6379" });
    expect(container(serve).ports?.[0]?.containerPort).toBe(options["port"]);
    expect(parsed(container(worker).args)).toMatchObject({ queue: options["store"] });
    expect(template(serve).spec.terminationGracePeriodSeconds).toBeGreaterThan(options["grace"] as number);
    expect(container(serve).readinessProbe?.httpGet).toEqual({ path: "/health", port: "http" });
    expect(container(serve).image).toBe("precis:0.1.0");
    expect(container(serve).resources.requests).toEqual({ cpu: "2", memory: "2Gi" });
    const secret = named(manifests, "Secret", container(serve).envFrom?.[0]?.secretRef.name as string);
    expect(secret.stringData).toEqual({ PRECIS_API_KEY: "sk-secret" });
  });

  test("takes a store, a secret and further options of one's own", () => {
    const manifests = renderChart(chart, {
      existingSecret: "mine",
      redisUrl: "rediss://elsewhere:6380",
      serve: { args: ["--dtype", "int8"], replicas: 5 },
    });
    expect(manifests.map(({ kind }) => kind).toSorted()).toEqual(["Deployment", "Deployment", "Service"]);
    const serve = named(manifests, "Deployment", "test-serve");
    expect(parsed(container(serve).args)).toMatchObject({ dtype: "int8", store: "rediss://elsewhere:6380" });
    expect(container(serve).envFrom).toEqual([{ secretRef: { name: "mine" } }]);
    expect(serve.spec["replicas"]).toBe(5);
  });

  test("does without no key", () => {
    expect(() => renderChart(chart)).toThrow("Set apiKey, or existingSecret.");
  });
});
