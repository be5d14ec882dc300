import "@partyline/react/styles.css";
import "./style/page.css";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { ChatPage } from "./pages.tsx";
import { forget, remember, remembered, type Session } from "./session.ts";
import { SignIn } from "./sign-in.tsx";

function Page() {
  const [session, setSession] = useState(remembered);
  const choose = (chosen: Session) => {
    remember(chosen);
    setSession(chosen);
  };
  const leave = () => {
    forget();
    setSession(undefined);
  };
  return session ? <ChatPage key={JSON.stringify(session)} session={session} leave={leave} /> : <SignIn choose={choose} />;
}

createRoot(document.getElementById("app") as HTMLElement).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);
