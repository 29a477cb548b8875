/** @file Entry point of the playground. */
import { render } from "preact";
import { App } from "./shell/app.js";
import { Playground } from "./state/playground.js";

const root = document.getElementById("app");
if (root !== null) render(<App playground={new Playground()} />, root);
