/** Types of custody-client.js: the browser client of a custody daemon. */

export class CustodyError extends Error {
  constructor(code?: string, details?: { requestId?: string | null; retryAfter?: number | null });
  /** The daemon's stable code, where it gave one; else empty. */
  readonly code: string;
  /** What the daemon's operator finds the request by. */
  readonly requestId: string | null;
  /** Seconds after which it may be tried again, where known. */
  readonly retryAfter: number | null;
}
export class SignInAgain extends CustodyError {}
export class StepUpRequired extends CustodyError {}
export class Unavailable extends CustodyError {}
export class Unreachable extends CustodyError {}
export class Conflict extends CustodyError {}
export class StaleGeneration extends CustodyError {}
export class Failed extends CustodyError {}
export class BadAnswer extends CustodyError {}
export class RolledBack extends CustodyError {}
export class RecoveryCodeNeeded extends CustodyError {}
export class WrongRecoveryCode extends CustodyError {}
export class MalformedRecoveryCode extends CustodyError {}

/** Make a new recovery code, for the user to keep. */
export function makeCode(): string;
/** Write a secret of 32 bytes as a code. Throws MalformedRecoveryCode. */
export function formatCode(secret: Uint8Array): string;
/** Return the secret of a code; case, white space and dashes do not matter. Throws MalformedRecoveryCode. */
export function parseCode(code: string): Uint8Array;

/** Where a device keeps the highest generation that it has seen of this user's vault. */
export interface Pin {
  load(): number | null | Promise<number | null>;
  /** Keep it, on disk before this ends; never put a lower one in a higher one's place. */
  save(generation: number): unknown;
}

export interface VaultOptions {
  /** `https://HOST[:PORT]`; plain `http:` on loopback alone. */
  address: string;
  /** Asked for each call, and once more after a 401. */
  token: () => string | Promise<string>;
  pin: Pin;
  fetch?: typeof globalThis.fetch;
  /** Milliseconds for one request; 15000. */
  timeout?: number;
}

/** AES-GCM keys: encrypt, decrypt, wrapKey and unwrapKey; they can't be exported. */
export interface Keys {
  readonly masterKey: CryptoKey;
  /** While a rotation is pending, the key before. */
  readonly previousMasterKey: CryptoKey | null;
  readonly generation: number;
}

export interface Status {
  vaultExists: boolean;
  hasRecoveryWrap: boolean;
  zeroKnowledge: boolean;
  /** ISO 8601 in UTC. */
  recoverySetAt: string | null;
}

export interface AuditEvent {
  id: string;
  at: string | null;
  action: string;
  context: string | null;
  status: number;
  ipAddress: string | null;
  userAgent: string | null;
}

export interface AuditPage {
  events: AuditEvent[];
  /** The `before` of the page after this one; null at the end. */
  next: string | null;
}

export class Vault {
  constructor(options: VaultOptions);
  status(): Promise<Status>;
  audit(page?: { limit?: number; before?: string | null }): Promise<AuditPage>;
  unlock(code?: string | null): Promise<Keys>;
  /** `current`: in zero-knowledge mode, the code of now. */
  setRecoveryCode(code: string, current?: string): Promise<void>;
  enableZeroKnowledge(code: string): Promise<void>;
  disableZeroKnowledge(code: string): Promise<void>;
  rotate(reencrypt: (keys: Keys) => unknown): Promise<Keys>;
  reset(): Promise<Keys>;
}
