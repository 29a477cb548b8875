/** @file The address of a bucket: `s3://bucket/prefix?endpoint=…&region=…&style=…`. */
import { PrecisError } from "../errors.js";

/** Where a bucket is. */
export interface S3Address {
  bucket: string;
  /** Empty, or ends in a slash. */
  prefix: string;
  /** Undefined for Amazon's own. */
  endpoint: string | undefined;
  region: string;
  /** Whether the bucket is named in the path, as most servers but Amazon's want it, or in the host. */
  pathStyle: boolean;
}

const PARAMETERS: readonly string[] = ["endpoint", "region", "style"];

/** Takes an address apart. @throws OPTION_INVALID */
export function parseS3Url(text: string): S3Address {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== "s3:" || url.hostname === "") throw invalid(text, "it does not begin with s3://BUCKET");
  if (url.username !== "" || url.password !== "") {
    throw invalid(url.hostname, "keys do not belong into it", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.");
  }
  const unknown = [...url.searchParams.keys()].find((name) => !PARAMETERS.includes(name));
  if (unknown !== undefined) throw invalid(unknown, `"${unknown}" is none of ${PARAMETERS.join(", ")}`);
  const endpoint = url.searchParams.get("endpoint") ?? undefined;
  if (endpoint !== undefined && !/^https?:$/.test(URL.canParse(endpoint) ? new URL(endpoint).protocol : "")) {
    throw invalid(endpoint, "its endpoint is no http:// or https:// address");
  }
  const style = url.searchParams.get("style") ?? (endpoint === undefined ? "host" : "path");
  if (style !== "path" && style !== "host") throw invalid(style, "its style is neither path nor host");
  const prefix = decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, "");
  const { AWS_REGION: own } = process.env;
  const region = url.searchParams.get("region") ?? (own === undefined || own === "" ? "us-east-1" : own);
  const { hostname: bucket } = url;
  return { bucket, prefix: prefix === "" ? "" : `${prefix}/`, endpoint, region, pathStyle: style === "path" };
}

function invalid(value: string, problem: string, nextStep?: string): PrecisError {
  return new PrecisError("OPTION_INVALID", `The address of a bucket cannot be used: ${problem}.`, {
    value,
    nextStep: nextStep ?? "Write s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION&style=path.",
  });
}
