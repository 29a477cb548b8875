/**
 * @file A small S3 server for tests: signatures, conditional writes and deletes, listing in pages, errors as XML. It keeps
 * to the API reference of Amazon S3 in what the store uses, and knows nothing else.
 */

import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** Who may use the server. */
export const credentials: { accessKeyId: string; secretAccessKey: string } = {
  accessKeyId: "AKIDTEST",
  secretAccessKey: "a secret of the tests/+",
};

/** What a server does unlike Amazon's. */
export interface S3Quirks {
  /** `writes`: deletes ignore conditions, as those of older servers do. `none`: writes do as well. */
  conditions?: "all" | "writes" | "none";
  /** The longest page of a listing; Amazon's is 1000. */
  pageSize?: number;
  /** Called once a request was carried out; `true` cuts the connection instead of answering. */
  cut?: (method: string, key: string) => boolean;
}

interface StoredObject {
  body: Buffer;
  etag: string;
  modified: Date;
  metadata: Record<string, string>;
}

class S3Failure extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string) {
    super(code);
    this.status = status;
    this.code = code;
  }
}

const sha256 = (data: string | Buffer): string => createHash("sha256").update(data).digest("hex");
const hmac = (key: string | Buffer, data: string): Buffer => createHmac("sha256", key).update(data).digest();
/** Escapes as signatures want it, which is stricter than encodeURIComponent. */
const escape = (text: string): string =>
  encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
const xml = (text: string): string => text.replace(/[<>&]/g, (c) => ({ "<": "&lt;", ">": "&gt;", "&": "&amp;" })[c]!);

/** Objects of the buckets named at the start, in this process. */
export class S3TestServer {
  readonly quirks: S3Quirks;
  readonly #buckets: Map<string, Map<string, StoredObject>>;
  #server: Server | undefined;
  #port = 0;
  /** Requests so far, as `METHOD key`. */
  readonly requests: string[] = [];

  constructor(buckets: readonly string[], quirks: S3Quirks = {}) {
    this.#buckets = new Map(buckets.map((name) => [name, new Map()]));
    this.quirks = quirks;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Begins to answer; after a stop, with the same objects and on the same port. */
  async start(): Promise<this> {
    this.#server = createServer((request, response) => void this.#respond(request, response));
    this.#server.listen(this.#port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = (this.#server.address() as AddressInfo).port;
    return this;
  }

  async stop(): Promise<void> {
    const server = this.#server!;
    server.close();
    server.closeAllConnections();
    await once(server, "close");
  }

  /** Objects of a bucket, to look at and to change. */
  objects(bucket: string): Map<string, StoredObject> {
    return this.#buckets.get(bucket)!;
  }

  /** Puts an object past all conditions. */
  store(bucket: string, key: string, body: Buffer, metadata: Record<string, string> = {}): StoredObject {
    const object = { body, etag: createHash("md5").update(body).digest("hex"), modified: new Date(), metadata };
    this.objects(bucket).set(key, object);
    return object;
  }

  async #respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const url = new URL(request.url!, this.endpoint);
    const [, bucket = "", ...rest] = url.pathname.split("/").map(decodeURIComponent);
    const key = rest.join("/");
    this.requests.push(`${request.method} ${key}`);
    try {
      verifySignature(request, url, body);
      if (!this.#buckets.has(bucket)) throw new S3Failure(404, "NoSuchBucket");
      const answer = this.#carryOut(request, { url, bucket, key, body });
      if (this.quirks.cut?.(request.method!, key) === true) return void request.socket.destroy();
      response.writeHead(answer.status, answer.headers).end(answer.body);
    } catch (error) {
      const { status, code } = error instanceof S3Failure ? error : new S3Failure(500, "InternalError");
      const text = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`;
      response
        .writeHead(status, { "content-type": "application/xml" })
        .end(request.method === "HEAD" ? undefined : text);
    }
  }

  #carryOut(
    { method, headers }: IncomingMessage,
    { url, bucket, key, body }: { url: URL; bucket: string; key: string; body: Buffer },
  ): { status: number; headers: Record<string, string>; body?: Buffer | string } {
    const objects = this.objects(bucket);
    const found = objects.get(key);
    if (method === "GET" && key === "") return this.#list(objects, bucket, url.searchParams);
    if (key === "") throw new S3Failure(405, "MethodNotAllowed");
    const { conditions = "all" } = this.quirks;
    if (method === "PUT") {
      if (conditions !== "none") refuseWrite(headers, found);
      const names = Object.keys(headers).filter((name) => name.startsWith("x-amz-meta-"));
      const metadata = Object.fromEntries(names.map((name) => [name, String(headers[name])]));
      return { status: 200, headers: { etag: `"${this.store(bucket, key, body, metadata).etag}"` } };
    }
    if (method === "DELETE") {
      // Of an object that is not there, Amazon says that it is gone, whatever the condition.
      if (conditions === "all" && found !== undefined) refuseWrite(headers, found);
      objects.delete(key);
      return { status: 204, headers: {} };
    }
    if (method !== "GET" && method !== "HEAD") throw new S3Failure(501, "NotImplemented");
    if (found === undefined) throw new S3Failure(404, "NoSuchKey");
    const { etag, modified, metadata } = found;
    const described = {
      etag: `"${etag}"`,
      "last-modified": modified.toUTCString(),
      "content-length": `${found.body.length}`,
      ...metadata,
    };
    return { status: 200, headers: described, ...(method === "GET" ? { body: found.body } : {}) };
  }

  #list(
    objects: ReadonlyMap<string, StoredObject>,
    bucket: string,
    query: URLSearchParams,
  ): { status: number; headers: Record<string, string>; body: string } {
    if (query.get("list-type") !== "2") throw new S3Failure(501, "NotImplemented");
    const prefix = query.get("prefix") ?? "";
    const token = query.get("continuation-token");
    const after = token === null ? (query.get("start-after") ?? "") : Buffer.from(token, "base64url").toString();
    const limit = Math.min(Number(query.get("max-keys") ?? 1000), this.quirks.pageSize ?? 1000);
    const all = [...objects.keys()].filter((key) => key.startsWith(prefix) && key > after).sort();
    const page = all.slice(0, limit);
    const contents = page.map((key) => {
      const { body, etag, modified } = objects.get(key)!;
      const fields = `<Key>${xml(key)}</Key><LastModified>${modified.toISOString()}</LastModified>`;
      return `<Contents>${fields}<ETag>&quot;${etag}&quot;</ETag><Size>${body.length}</Size></Contents>`;
    });
    const truncated = all.length > page.length;
    const next = Buffer.from(page.at(-1) ?? "").toString("base64url");
    const body = `<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>${bucket}</Name><Prefix>${xml(prefix)}</Prefix>
<KeyCount>${page.length}</KeyCount><MaxKeys>${limit}</MaxKeys><IsTruncated>${truncated}</IsTruncated>
${truncated ? `<NextContinuationToken>${next}</NextContinuationToken>` : ""}${contents.join("")}</ListBucketResult>`;
    return { status: 200, headers: { "content-type": "application/xml" }, body };
  }
}

/** What Amazon does with If-Match and If-None-Match of a write. */
function refuseWrite(headers: IncomingMessage["headers"], found: StoredObject | undefined): void {
  const { "if-match": match, "if-none-match": noneMatch } = headers;
  if (match !== undefined && found === undefined) throw new S3Failure(404, "NoSuchKey");
  if (match !== undefined && match !== `"${found!.etag}"`) throw new S3Failure(412, "PreconditionFailed");
  if (noneMatch !== undefined && noneMatch !== "*") throw new S3Failure(501, "NotImplemented");
  if (noneMatch !== undefined && found !== undefined) throw new S3Failure(412, "PreconditionFailed");
}

/** Signature version 4 in the Authorization header. @throws S3Failure 403 */
function verifySignature({ method, headers }: IncomingMessage, url: URL, body: Buffer): void {
  const form =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/((\d{8})\/([^/]+)\/s3\/aws4_request), SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/;
  const [, id, scope, day, region, signed, signature] = form.exec(headers.authorization ?? "") ?? [];
  if (id !== credentials.accessKeyId) throw new S3Failure(403, "InvalidAccessKeyId");
  const digest = String(headers["x-amz-content-sha256"]);
  if (digest !== "UNSIGNED-PAYLOAD" && digest !== sha256(body)) throw new S3Failure(400, "XAmzContentSHA256Mismatch");
  const names = signed!.split(";");
  if (!names.includes("host") || !names.includes("x-amz-date")) throw new S3Failure(403, "AccessDenied");
  const query = [...url.searchParams].map(([name, value]) => `${escape(name)}=${escape(value)}`).sort();
  const canonical = [
    method,
    url.pathname.split("/").map(decodeURIComponent).map(escape).join("/"),
    query.join("&"),
    ...names.map((name) => `${name}:${String(headers[name]).trim().replace(/ +/g, " ")}`),
    "",
    signed,
    digest,
  ].join("\n");
  const toSign = ["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, sha256(canonical)].join("\n");
  const parts = [day!, region!, "s3", "aws4_request"];
  const key = parts.reduce<string | Buffer>((before, part) => hmac(before, part), `AWS4${credentials.secretAccessKey}`);
  if (!timingSafeEqual(hmac(key, toSign), Buffer.from(signature!, "hex"))) {
    throw new S3Failure(403, "SignatureDoesNotMatch");
  }
}
