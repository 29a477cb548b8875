/** @file Renders our Helm chart, by the part of Go's templates that it uses; anything else is an error. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse, parseAllDocuments, stringify } from "yaml";

/** A Kubernetes object, as far as tests look into it. */
export interface Manifest {
  kind: string;
  metadata: { name: string };
  spec: Record<string, never>;
  stringData?: Record<string, string>;
}

type Scope = Readonly<Record<string, unknown>>;

/** The chart in `folder` with values laid over its own. @throws for what the templates require, or this file does not know */
export function renderChart(folder: string, values: Scope = {}): Manifest[] {
  const defaults = parse(readFileSync(join(folder, "values.yaml"), "utf8")) as Scope;
  const { appVersion, name } = parse(readFileSync(join(folder, "Chart.yaml"), "utf8")) as Record<string, string>;
  const scope = {
    Values: merge(defaults, values),
    Release: { Name: "test", Namespace: "default" },
    Chart: { AppVersion: appVersion, Name: name },
  };
  const templates = readdirSync(join(folder, "templates")).toSorted();
  return templates.flatMap((file) => {
    const text = render(readFileSync(join(folder, "templates", file), "utf8"), scope);
    if (!file.endsWith(".yaml")) return [];
    return parseAllDocuments(text).flatMap((document) => {
      const [error] = document.errors;
      if (error !== undefined) throw new Error(`${file}: ${error.message}\n${text}`);
      return document.contents === null ? [] : [document.toJS() as Manifest];
    });
  });
}

function isScope(value: unknown): value is Scope {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function merge(base: Scope, over: Scope): Scope {
  const laid = Object.entries(over).map(([key, value]) => {
    if (!(key in base)) throw new Error(`The chart has no value ${key}.`);
    const below = base[key];
    return [key, isScope(value) && isScope(below) ? merge(below, value) : value];
  });
  return { ...base, ...Object.fromEntries(laid) };
}

/** A template's text in parts: what is printed as it is, and actions. */
function render(text: string, root: Scope): string {
  const trimmed = text.replace(/\s*\{\{-/g, "{{").replace(/-\}\}\s*/g, "}}");
  const parts = trimmed.split(/\{\{(.*?)\}\}/s);
  const run = (from: number, dot: unknown, isShown: boolean): { output: string; at: number; stop: string } => {
    let output = "";
    for (let at = from; at < parts.length; at++) {
      const part = parts[at] as string;
      if (at % 2 === 0) {
        output += isShown ? part : "";
        continue;
      }
      const action = part.trim();
      if (action === "end" || action === "else") return { output, at, stop: action };
      const [, keyword, subject = ""] = /^(if|range)\s+(.*)$/s.exec(action) ?? [];
      if (keyword === undefined) {
        output += isShown ? shown(evaluate(action, root, dot)) : "";
        continue;
      }
      const value = isShown ? evaluate(subject, root, dot) : undefined;
      const items = keyword === "range" && Array.isArray(value) ? (value as unknown[]) : [dot];
      const isTrue = isShown && isTruthy(value);
      let block = run(at + 1, items[0], isTrue);
      const bodies = isTrue ? items.slice(1).map((item) => run(at + 1, item, true).output) : [];
      output += block.output + bodies.join("");
      if (block.stop === "else") {
        block = run(block.at + 1, dot, isShown && !isTrue);
        output += block.output;
      }
      at = block.at;
    }
    return { output, at: parts.length, stop: "" };
  };
  return run(0, root, true).output;
}

function isTruthy(value: unknown): boolean {
  return Array.isArray(value) ? value.length > 0 : Boolean(value);
}

function shown(value: unknown): string {
  if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") return String(value);
  throw new Error(`Only texts and numbers can be printed, not ${JSON.stringify(value)}.`);
}

/** An expression: calls in a pipe, whose arguments are paths, literals, or expressions in brackets. */
function evaluate(expression: string, root: Scope, dot: unknown): unknown {
  const tokens = expression.match(/"(?:[^"\\]|\\.)*"|[()|]|[^\s()|]+/g) ?? [];
  let at = 0;
  const argument = (): unknown => {
    const token = tokens[at++] as string;
    if (token === "(") {
      const value = pipe();
      if (tokens[at++] !== ")") throw new Error(`Unbalanced brackets in ${expression}.`);
      return value;
    }
    if (token === ".") return dot;
    if (/^"|^-?\d/.test(token)) return JSON.parse(token) as unknown;
    if (!token.startsWith(".")) throw new Error(`Unknown word ${token} in ${expression}.`);
    return token
      .slice(1)
      .split(".")
      .reduce<unknown>((value, key) => {
        if (isScope(value) && key in value) return value[key];
        throw new Error(`There is no ${token}.`);
      }, root);
  };
  const call = (piped: readonly unknown[]): unknown => {
    const apply = FUNCTIONS[tokens[at] as string];
    const isCall = apply !== undefined;
    if (isCall) at++;
    const given: unknown[] = [];
    while (at < tokens.length && tokens[at] !== "|" && tokens[at] !== ")") given.push(argument());
    return isCall ? apply(...given, ...piped) : given[0];
  };
  const pipe = (): unknown => {
    let value = call([]);
    while (tokens[at] === "|") {
      at++;
      value = call([value]);
    }
    return value;
  };
  return pipe();
}

const FUNCTIONS: Readonly<Record<string, (...given: unknown[]) => unknown>> = {
  quote: (value) => JSON.stringify(shown(value)),
  default: (fallback, value) => (isTruthy(value) ? value : fallback),
  not: (value) => !isTruthy(value),
  add: (a, b) => Number(a) + Number(b),
  printf: (format, ...values) =>
    values.reduce<string>((text, value) => text.replace("%s", shown(value)), String(format)),
  toYaml: (value) => stringify(value).trimEnd(),
  nindent: (count, text) => `\n${String(text).replace(/^/gm, " ".repeat(Number(count)))}`,
  required: (message, value) => {
    if (!isTruthy(value)) throw new Error(String(message));
    return value;
  },
};
