import { Refusal } from "@partyline/client";
import { fireEvent, render, screen, within } from "@testing-library/react";
import { expect, test, vi } from "vitest";
import { ChatProvider, type ChatProviderProps, CustomerChat } from "../src/index.ts";
import { FakeServer, message } from "./server.ts";

function provide(server: FakeServer, children: React.ReactNode, more: Partial<ChatProviderProps> = {}) {
  render(
    <ChatProvider url="https://chat.example/" token={() => Promise.resolve("a.b.c")} transport={server.transport} locale="en-GB" {...(more as object)}>
      {children}
    </ChatProvider>,
  );
}

const problem = { code: "unavailable", detail: "the database does not answer" };
const skeletons = () => document.querySelectorAll(".pl-skeleton").length;

test("a list that can't be had says why, and is had when it can be", async () => {
  const server = new FakeServer();
  server.restRefuses = { status: 503, problem };
  provide(server, <CustomerChat />);
  expect(skeletons()).toBeGreaterThan(0);
  const alert = await screen.findByText("the database does not answer");
  expect([alert.getAttribute("role"), skeletons()]).toEqual(["alert", 0]);
  server.restRefuses = undefined;
  fireEvent.click(screen.getByRole("button", { name: "Try again" }));
  await screen.findByRole("button", { name: /^Vera/ });
  expect(screen.queryByText("the database does not answer")).toBeNull();
});

test("a vendor who can't be talked with: it says why, and can be tried again", async () => {
  const server = new FakeServer([message(1, { content: "Welcome" })]);
  server.restRefuses = { status: 404, problem: { code: "not_found", detail: "there is no such person" } };
  provide(server, <CustomerChat with="vera" />);
  await screen.findByText("there is no such person");
  server.restRefuses = undefined;
  fireEvent.click(screen.getByRole("button", { name: "Try again" }));
  await screen.findByText("Welcome");
});

test("whoever can't be given a token is asked to sign in, and nothing pretends to load", async () => {
  const onSignIn = vi.fn();
  provide(new FakeServer(), <CustomerChat onSignIn={onSignIn} />, { token: () => Promise.reject(new Refusal("token_refused", "Nobody is signed in.")) });
  const banner = await screen.findByTestId("banner");
  within(banner).getByText("Nobody is signed in.");
  expect(skeletons()).toBe(0);
  fireEvent.click(within(banner).getByRole("button", { name: "Sign in again" }));
  expect(onSignIn).toHaveBeenCalledTimes(1);
});

test("a token that can't be had for now is no end: it says when it is tried again", async () => {
  let isDown = true;
  const token = () => (isDown ? Promise.reject(new TypeError("Failed to fetch")) : Promise.resolve("a.b.c"));
  provide(new FakeServer(), <CustomerChat />, { token });
  await screen.findByText(/Trying again in \d+ s/);
  isDown = false;
  fireEvent.click(screen.getByRole("button", { name: "Try now" }));
  await screen.findByRole("button", { name: /^Vera/ });
});
