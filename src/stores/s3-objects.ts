/** @file Objects in a bucket that are written and removed only as the writer last saw them, by their ETags. */
import { randomUUID } from "node:crypto";
import type * as sdk from "@aws-sdk/client-s3";
import { PrecisError } from "../errors.js";

type Sdk = typeof sdk;

/** An object as it was read. */
export interface S3Object {
  etag: string;
  body: Uint8Array;
}

/** What stands in for an object where the server cannot delete on condition; no session and no lease is so short. */
const TOMBSTONE: Uint8Array = new TextEncoder().encode("deleted");
/** Names a write, so that one whose answer got lost knows itself again. */
const WRITE = "precis-write";
/** What an ETag may consist of. */
const ETAG = /^[\x21\x23-\x7e]{1,200}$/;
/** How often a write is sent again that the server could not order among others. */
const ORDER_ATTEMPTS = 5;

/** Statuses of writes that were refused for what they found: nothing, something else, or another write at the same time. */
const REFUSED: ReadonlySet<number> = new Set([404, 409, 412]);

/** The HTTP status of a failed request; undefined where there was no answer. */
export function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } } | undefined)?.$metadata?.httpStatusCode;
}

function isRefusal(error: unknown): boolean {
  const { name } = error as Error;
  return REFUSED.has(statusOf(error) ?? 0) && name !== "NoSuchBucket";
}

function isTombstone(body: Uint8Array): boolean {
  return body.byteLength === TOMBSTONE.byteLength && TOMBSTONE.every((byte, i) => body[i] === byte);
}

function bare(etag: string | undefined): string {
  return (etag ?? "").replace(/^(W\/)?"|"$/g, "");
}

/** Objects of one bucket. */
export class S3Objects {
  readonly #sdk: Sdk;
  readonly #client: sdk.S3Client;
  readonly #bucket: string;
  /** Whether the server deletes on condition, which AWS does and some others do not. */
  #conditionalDelete = false;

  constructor(loaded: Sdk, client: sdk.S3Client, bucket: string) {
    this.#sdk = loaded;
    this.#client = client;
    this.#bucket = bucket;
  }

  /**
   * Finds out whether the server keeps to conditions, since one that does not know them writes all the same.
   * @param name an object for trying, which is removed
   * @throws STORE_UNAVAILABLE if it does not
   */
  async probe(name: string): Promise<void> {
    const own = `${name}-${randomUUID()}`;
    const first = await this.put(own, new Uint8Array(TOMBSTONE.byteLength + 1), undefined);
    const attempts = [await this.put(own, new Uint8Array(0), undefined), await this.put(own, TOMBSTONE, "none")];
    if (first === undefined || attempts.some((etag) => etag !== undefined)) {
      await this.remove(own);
      throw new PrecisError("STORE_UNAVAILABLE", "This S3 server ignores If-Match and If-None-Match of writes.", {
        nextStep: "Use one that has conditional writes, since appends of two servers would get lost otherwise.",
      });
    }
    this.#conditionalDelete = !(await this.#deletedOn(own, "none"));
    await this.remove(own);
  }

  /** An object, or undefined. */
  async get(name: string): Promise<S3Object | undefined> {
    const found = await this.#read(name);
    return found === undefined || isTombstone(found.body) ? undefined : found;
  }

  /**
   * Writes an object if it is as it was seen.
   * @param expected its ETag; undefined if there must be none
   * @returns the new ETag; undefined, without any change, if it was not so
   */
  async put(name: string, body: Uint8Array, expected: string | undefined): Promise<string | undefined> {
    if (expected !== undefined && !ETAG.test(expected)) return undefined;
    const write = randomUUID();
    const done = await this.#write(name, body, { write, expected });
    if (done !== undefined || expected !== undefined) return done;
    const found = await this.#read(name);
    return found !== undefined && isTombstone(found.body)
      ? this.#write(name, body, { write, expected: found.etag })
      : undefined;
  }

  /** Removes an object if it has this ETag. @returns whether it had */
  async removeIf(name: string, expected: string): Promise<boolean> {
    if (!this.#conditionalDelete) return (await this.put(name, TOMBSTONE, expected)) !== undefined;
    if ((await this.#head(name))?.etag !== expected) return false;
    return this.#deletedOn(name, expected);
  }

  /** Removes an object as it is. @returns whether there was one */
  async remove(name: string): Promise<boolean> {
    const existed = (await this.get(name)) !== undefined;
    await this.#client.send(new this.#sdk.DeleteObjectCommand({ Bucket: this.#bucket, Key: name }));
    return existed;
  }

  /** The ETag of an object, or undefined. */
  async etag(name: string): Promise<string | undefined> {
    return (await this.get(name))?.etag;
  }

  /** Names that begin with `prefix` and come after `after`, in order, at most `limit`. */
  async names(prefix: string, after: string, limit: number): Promise<string[]> {
    const names: string[] = [];
    let token: string | undefined;
    do {
      const page = await this.#client.send(
        new this.#sdk.ListObjectsV2Command({
          Bucket: this.#bucket,
          Prefix: prefix,
          MaxKeys: Math.min(limit, 1000),
          ...(token === undefined ? { StartAfter: after } : { ContinuationToken: token }),
        }),
      );
      for (const { Key: name, Size: size } of page.Contents ?? []) {
        if (name !== undefined && size !== TOMBSTONE.byteLength) names.push(name);
      }
      token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    } while (token !== undefined && names.length < limit);
    return names.slice(0, limit);
  }

  close(): void {
    this.#client.destroy();
  }

  async #read(name: string): Promise<S3Object | undefined> {
    const found = await this.#unlessMissing(
      this.#client.send(new this.#sdk.GetObjectCommand({ Bucket: this.#bucket, Key: name })),
    );
    if (found?.Body === undefined) return undefined;
    return { etag: bare(found.ETag), body: await found.Body.transformToByteArray() };
  }

  async #head(name: string): Promise<{ etag: string; write: string | undefined } | undefined> {
    const found = await this.#unlessMissing(
      this.#client.send(new this.#sdk.HeadObjectCommand({ Bucket: this.#bucket, Key: name })),
    );
    return found && { etag: bare(found.ETag), write: found.Metadata?.[WRITE] };
  }

  async #write(
    name: string,
    body: Uint8Array,
    { write, expected }: { write: string; expected: string | undefined },
  ): Promise<string | undefined> {
    const condition = expected === undefined ? { IfNoneMatch: "*" } : { IfMatch: `"${expected}"` };
    for (let attempt = 1; ; attempt++) {
      try {
        const { ETag: etag } = await this.#client.send(
          new this.#sdk.PutObjectCommand({
            Bucket: this.#bucket,
            Key: name,
            Body: body,
            ContentType: "application/octet-stream",
            Metadata: { [WRITE]: write },
            ...condition,
          }),
        );
        return bare(etag);
      } catch (error) {
        if (!isRefusal(error)) throw error;
        // A request that was sent again after its answer got lost finds what it wrote itself.
        const found = await this.#head(name);
        if (found?.write === write) return found.etag;
        if (statusOf(error) !== 409 || found?.etag !== expected || attempt === ORDER_ATTEMPTS) return undefined;
      }
    }
  }

  async #deletedOn(name: string, expected: string): Promise<boolean> {
    try {
      const condition = { Bucket: this.#bucket, Key: name, IfMatch: `"${expected}"` };
      await this.#client.send(new this.#sdk.DeleteObjectCommand(condition));
      return true;
    } catch (error) {
      if (isRefusal(error)) return false;
      throw error;
    }
  }

  async #unlessMissing<Output>(work: Promise<Output>): Promise<Output | undefined> {
    try {
      return await work;
    } catch (error) {
      if (statusOf(error) === 404 && (error as Error).name !== "NoSuchBucket") return undefined;
      throw error;
    }
  }
}
