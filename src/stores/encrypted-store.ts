/**
 * @file Encryption at rest around any store: AES-256-GCM (NIST SP 800-38D) over the snapshot and the metadata, bound to
 * the session's key. The store below sees ids, sizes, times and leases, and nothing of what a session holds.
 */
import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from "node:crypto";
import { PrecisError } from "../errors.js";
import { corruptSession } from "./frame.js";
import type {
  JsonValue,
  Lease,
  ListPage,
  ListQuery,
  SessionKey,
  SessionStore,
  SessionValue,
  StoredSession,
} from "./store.js";

/** `PRECISE` and the version of the format. */
const MAGIC: Uint8Array = Uint8Array.from([0x50, 0x52, 0x45, 0x43, 0x49, 0x53, 0x45, 1]);
const KEY_BYTES = 32;
const KEY_ID_BYTES = 8;
const SALT_BYTES = 16;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const SALT_AT = MAGIC.length + KEY_ID_BYTES;
const NONCE_AT = SALT_AT + SALT_BYTES;
const TAG_AT = NONCE_AT + NONCE_BYTES;
const SECRET_AT = TAG_AT + TAG_BYTES;

/** Keys of an {@link EncryptedStore}: 32 bytes each, or 64 hexadecimal digits, or their base64. */
export interface EncryptionOptions {
  /** What is written is encrypted with this one. */
  key: string | Uint8Array;
  /** Older keys that what is read may still be encrypted with; the next write of a session uses the new one. */
  oldKeys?: readonly (string | Uint8Array)[];
}

/** A key, ready for use. */
interface Secret {
  id: Buffer;
  bytes: Buffer;
}

/** @throws OPTION_INVALID unless the key has 256 bits */
function readSecret(key: string | Uint8Array): Secret {
  const isHex = typeof key === "string" && /^[0-9a-f]{64}$/i.test(key);
  const bytes = typeof key === "string" ? Buffer.from(key, isHex ? "hex" : "base64") : Buffer.from(key);
  if (bytes.length !== KEY_BYTES) {
    // The offending value is a secret, so only its size is told.
    throw new PrecisError("OPTION_INVALID", `An encryption key needs ${KEY_BYTES} bytes, not ${bytes.length}.`, {
      value: bytes.length,
      nextStep: "Make one with `node -p 'crypto.randomBytes(32).toString(\"hex\")'`.",
    });
  }
  const id = createHash("sha256").update("precis key id\0").update(bytes).digest().subarray(0, KEY_ID_BYTES);
  return { id, bytes };
}

/**
 * A key for one value, from 128 random bits: with a fresh key each time, the 96-bit nonces cannot collide however many
 * values are written (SP 800-38D allows 2^32 with one key).
 */
function valueKey({ bytes }: Secret, salt: Uint8Array): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", bytes, salt, "precis session", KEY_BYTES));
}

function boundTo(key: SessionKey, header: Uint8Array): Buffer {
  return Buffer.concat([header, Buffer.from(`${key.namespace}\0${key.id}`)]);
}

/** Layout: magic and version, key id, salt, nonce, tag, then encrypted: length of the metadata, metadata, snapshot. */
function encrypt(secret: Secret, key: SessionKey, { metadata, bytes }: SessionValue): Uint8Array {
  const header = Buffer.concat([MAGIC, secret.id, randomBytes(SALT_BYTES), randomBytes(NONCE_BYTES)]);
  const [salt, nonce] = [header.subarray(SALT_AT, NONCE_AT), header.subarray(NONCE_AT)];
  const cipher = createCipheriv("aes-256-gcm", valueKey(secret, salt), nonce, { authTagLength: TAG_BYTES });
  cipher.setAAD(boundTo(key, header));
  const text = Buffer.from(JSON.stringify(metadata));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  const parts = [length, text, bytes].map((part) => cipher.update(part));
  parts.push(cipher.final());
  return Buffer.concat([header, cipher.getAuthTag(), ...parts]);
}

function decrypt(secrets: readonly Secret[], key: SessionKey, sealed: Uint8Array): SessionValue {
  const view = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
  if (view.length < SECRET_AT || !view.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw new PrecisError("STORE_KEY_MISMATCH", `Session "${key.id}" is not encrypted, but a key was given.`, {
      value: key.id,
      nextStep: "Open the store without a key and write its sessions into one with a key.",
    });
  }
  const keyId = view.subarray(MAGIC.length, SALT_AT);
  const secret = secrets.find(({ id }) => id.equals(keyId));
  if (secret === undefined) {
    throw new PrecisError(
      "STORE_KEY_MISMATCH",
      `Session "${key.id}" is encrypted with another key (${keyId.toString("hex")}) than given.`,
      { value: keyId.toString("hex"), nextStep: "Give the key it was written with, as the key or among the old keys." },
    );
  }
  const nonce = view.subarray(NONCE_AT, TAG_AT);
  const itsKey = valueKey(secret, view.subarray(SALT_AT, NONCE_AT));
  const decipher = createDecipheriv("aes-256-gcm", itsKey, nonce, { authTagLength: TAG_BYTES });
  decipher.setAAD(boundTo(key, view.subarray(0, TAG_AT)));
  decipher.setAuthTag(view.subarray(TAG_AT, SECRET_AT));
  let plain: Buffer;
  try {
    plain = Buffer.concat([decipher.update(view.subarray(SECRET_AT)), decipher.final()]);
  } catch (error) {
    throw corruptSession(key, "it was changed since it was encrypted", error);
  }
  const textEnd = 4 + plain.readUInt32LE(0);
  const metadata = JSON.parse(plain.subarray(4, textEnd).toString("utf8")) as Record<string, JsonValue>;
  return { metadata, bytes: new Uint8Array(plain.subarray(textEnd)) };
}

/** A {@link SessionStore} that keeps what it is given encrypted in another one, which it closes with itself. */
export class EncryptedStore implements SessionStore {
  readonly #inner: SessionStore;
  readonly #secrets: readonly [Secret, ...Secret[]];

  /** @throws OPTION_INVALID unless every key has 256 bits */
  constructor(inner: SessionStore, { key, oldKeys = [] }: EncryptionOptions) {
    this.#inner = inner;
    this.#secrets = [readSecret(key), ...oldKeys.map(readSecret)];
  }

  /** @throws STORE_KEY_MISMATCH if it is encrypted with none of the keys, or not at all */
  async get(key: SessionKey): Promise<StoredSession | undefined> {
    const sealed = await this.#inner.get(key);
    return sealed && { ...decrypt(this.#secrets, key, sealed.bytes), version: sealed.version };
  }

  async put(key: SessionKey, value: SessionValue, expected: string | undefined): Promise<string> {
    return this.#inner.put(key, { bytes: encrypt(this.#secrets[0], key, value), metadata: {} }, expected);
  }

  delete(key: SessionKey, expected?: string): Promise<boolean> {
    return this.#inner.delete(key, expected);
  }

  list(query: ListQuery): Promise<ListPage> {
    return this.#inner.list(query);
  }

  acquireLease(key: SessionKey, holder: string, ttlMs: number): Promise<Lease> {
    return this.#inner.acquireLease(key, holder, ttlMs);
  }

  renewLease(lease: Lease, ttlMs: number): Promise<Lease> {
    return this.#inner.renewLease(lease, ttlMs);
  }

  releaseLease(lease: Lease): Promise<void> {
    return this.#inner.releaseLease(lease);
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}
