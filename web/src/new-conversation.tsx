import { Disconnected, Refusal } from "@partyline/client";
import { Icon, useChat } from "@partyline/react";
import { type FormEvent, useId, useRef, useState } from "react";

/** Begins a conversation with somebody whose user id one knows: a demo has no directory of people. */
export function NewConversation() {
  const { startConversation } = useChat();
  const dialog = useRef<HTMLDialogElement>(null);
  const [problem, setProblem] = useState<string>();
  const id = useId();
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    const userId = String(new FormData(form).get("user_id")).trim();
    if (!userId) return;
    try {
      await startConversation(userId);
      form.reset();
      dialog.current?.close();
    } catch (error) {
      setProblem(error instanceof Refusal || error instanceof Disconnected ? error.message : String(error));
    }
  };
  const open = () => {
    setProblem(undefined);
    dialog.current?.showModal();
  };
  return (
    <>
      <button className="pl-round" type="button" aria-label="New conversation" title="New conversation" aria-haspopup="dialog" onClick={open}>
        <Icon name="plus" />
      </button>
      <dialog className="dialog" ref={dialog} aria-labelledby={id}>
        <h2 id={id}>New conversation</h2>
        <form onSubmit={(event) => void submit(event)}>
          <label>
            Talk with (user id)
            <input name="user_id" autoComplete="off" autoCapitalize="none" spellCheck={false} maxLength={128} required autoFocus />
          </label>
          {problem !== undefined && (
            <p className="pl-problem" role="alert">
              {problem}
            </p>
          )}
          <div className="dialog-buttons">
            <button className="pl-quiet" type="button" onClick={() => dialog.current?.close()}>
              Cancel
            </button>
            <button className="pl-primary" type="submit">
              Start
            </button>
          </div>
        </form>
      </dialog>
    </>
  );
}
