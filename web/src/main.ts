import "./style/index.css";
import { App } from "./ui/app.ts";
import { DemoTokens, PastedToken } from "./ui/session.ts";
import { type SignIn, signInScreen } from "./ui/signin.ts";

const root = document.getElementById("app") as HTMLElement;

/** Who this window belongs to stands in its address (a demo person) or its own storage (a token): a reload keeps it. */
function remembered(): SignIn | undefined {
  const as = new URLSearchParams(location.search).get("as");
  if (as) return { as };
  const token = PastedToken.remembered();
  return token === null ? undefined : { token };
}

function signIn(choice: SignIn): void {
  if ("as" in choice) {
    history.replaceState(null, "", `?${new URLSearchParams({ as: choice.as })}${location.hash}`);
  } else {
    PastedToken.remember(choice.token);
  }
  new App(root, "as" in choice ? new DemoTokens(choice.as) : new PastedToken(choice.token), signOut);
}

function signOut(): void {
  PastedToken.forget();
  history.replaceState(null, "", location.pathname);
  void signInScreen(root, signIn);
}

const choice = remembered();
if (choice) signIn(choice);
else void signInScreen(root, signIn);
