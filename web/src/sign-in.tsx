import { Avatar } from "@partyline/react";
import { type FormEvent, useEffect, useState } from "react";
import { BOTH, type DemoPerson, demoPeople, type Session } from "./session.ts";

/** Asks who to be. */
export function SignIn({ choose }: { choose(session: Session): void }) {
  const [people, setPeople] = useState<DemoPerson[] | "none" | "failed">();
  useEffect(() => {
    demoPeople().then(
      (found) => setPeople(found.length > 0 ? found : "none"),
      () => setPeople("failed"),
    );
  }, []);
  if (people === undefined) return null;
  const form = <TokenForm choose={choose} />;
  return (
    <main className="pl-chat sign-in">
      <h1>Partyline</h1>
      {people === "failed" && (
        <p className="pl-problem" role="alert">
          The server does not answer.
        </p>
      )}
      {typeof people === "string" ? (
        <>
          <p className="pl-muted">Sign in with a token of your own.</p>
          {form}
        </>
      ) : (
        <>
          <p className="pl-muted">Sign in as</p>
          <ul className="people">
            {people.map((person, index) => (
              <li key={person.user_id}>
                <button className="person" type="button" autoFocus={index === 0} onClick={() => choose({ as: person.user_id })}>
                  <Avatar id={person.user_id} name={person.username} />
                  <span className="person-name">{person.username}</span>
                  <span className="pl-tag">{person.user_type}</span>
                </button>
              </li>
            ))}
            {people.length > 1 && (
              <li>
                <button className="person" type="button" onClick={() => choose({ as: BOTH })}>
                  <span className="pair">
                    {people.slice(0, 2).map(({ user_id, username }) => (
                      <Avatar key={user_id} id={user_id} name={username} />
                    ))}
                  </span>
                  <span className="person-name">Both, side by side</span>
                </button>
              </li>
            )}
          </ul>
          <details>
            <summary>Use a token of your own</summary>
            {form}
          </details>
        </>
      )}
    </main>
  );
}

function TokenForm({ choose }: { choose(session: Session): void }) {
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const token = String(new FormData(event.currentTarget).get("token")).trim();
    if (token) choose({ token });
  };
  return (
    <form className="token-form" onSubmit={submit}>
      <label>
        Token (JWT)
        {/* A password field: what is pasted is as good as one, and is not to be seen or completed. */}
        <input name="token" type="password" autoComplete="off" spellCheck={false} required />
      </label>
      <button className="pl-primary" type="submit">
        Sign in
      </button>
    </form>
  );
}
