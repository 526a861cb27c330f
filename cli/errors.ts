/**
 * Errors that the operator can fix: one sentence and an exit status. Everything else that is thrown is a
 * defect, and is printed with its stack.
 */

/** Exit statuses of `tegula`, as `docs/operating/incidents.md` lists them. */
export const Exit = {
  ok: 0,
  failure: 1,
  usage: 2,
  privilege: 3,
  interface: 4,
  port: 5,
  xdp: 6,
  system: 7,
} as const;

/** The message of a thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Runs `work` and returns its exit status, or prints the UserError that it throws and returns that one's. */
export async function statusOf(work: () => Promise<number>): Promise<number> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    try {
      console.error(`tegula: ${error.message}`);
    } catch {
      // Standard error cannot be written. The status remains.
    }
    return error.status;
  }
}

/** An error that the operator can fix: one sentence, and the exit status that goes with it. */
export class UserError extends Error {
  override readonly name = "UserError";
  readonly status: number;

  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}
