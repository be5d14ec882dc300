import { useEffect, useMemo, useState } from "react";
import { Person } from "./person.tsx";
import { BOTH, claimsOf, type DemoPerson, demoPeople, demoTokens, type Session } from "./session.ts";

interface PageProps {
  session: Session;
  leave(): void;
}

/** The chat of whoever uses this window. */
export function ChatPage({ session, leave }: PageProps) {
  if ("token" in session) return <TokenPage token={session.token} leave={leave} />;
  return <DemoPage as={session.as} leave={leave} />;
}

/** Somebody with a token of their own: there is no other. */
function TokenPage({ token, leave }: { token: string; leave(): void }) {
  const provider = useMemo(() => () => Promise.resolve(token), [token]);
  const { sub, user_type } = claimsOf(token);
  return (
    <main className="page">
      <Person token={provider} userId={String(sub)} userType={user_type} leave={leave} isAlone />
    </main>
  );
}

/** A demo person, or a customer and a vendor side by side. */
function DemoPage({ as, leave }: { as: string; leave(): void }) {
  const [people, setPeople] = useState<DemoPerson[]>();
  useEffect(() => {
    // Without an answer the chat itself says what is wrong.
    demoPeople().then(setPeople, () => setPeople([]));
  }, []);
  if (!people) return null;
  const shown = as === BOTH ? ["customer", "vendor"].flatMap((type) => people.find(({ user_type }) => user_type === type) ?? []) : [];
  if (shown.length === 0) {
    return (
      <main className="page">
        <Demo userId={as} people={people} leave={leave} isAlone />
      </main>
    );
  }
  return (
    <main className="page pair-page">
      {shown.map(({ user_id, username, user_type }) => (
        <section key={user_id} className="pair-half" aria-label={username}>
          <h2>
            {username} <span className="pl-tag">{user_type}</span>
          </h2>
          <Demo userId={user_id} people={people} leave={leave} />
        </section>
      ))}
    </main>
  );
}

function Demo({ userId, people, ...rest }: { userId: string; people: DemoPerson[]; leave(): void; isAlone?: boolean }) {
  const token = useMemo(() => demoTokens(userId), [userId]);
  return <Person token={token} userId={userId} userType={people.find(({ user_id }) => user_id === userId)?.user_type} {...rest} />;
}
