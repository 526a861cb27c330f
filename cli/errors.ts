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
  warning: 8,
} as const;

/** What they mean, in their order. */
export const EXIT_STATUSES = [
  "it ended as requested",
  "any other reason, for example that the running tegula does not answer",
  "wrong usage or configuration, or no tegula runs that could be asked",
  "a privilege is missing",
  "an interface: none has that name, or its MTU does not fit",
  "a port: another program has it",
  "XDP or AF_XDP: another XDP program is attached, or the kernel has no AF_XDP",
  "the system lacks something: a library, /proc, memory, or a limit is too low",
  "tegula check has found warnings, and no failure",
] as const;

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
