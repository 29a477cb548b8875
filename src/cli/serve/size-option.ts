/** @file Sizes on the command line: `800MB`, `2GB`, plain bytes. */
import { InvalidArgumentError } from "commander";

const UNITS: Readonly<Record<string, number>> = { "": 1, B: 1, KB: 1e3, MB: 1e6, GB: 1e9 };

/** A parser of option values that takes sizes from 1 byte on, in decimal units as they are shown. */
export function byteSize(text: string): number {
  const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)\s*([KMG]?B)?$/i.exec(text.trim()) ?? [];
  const bytes = Math.floor(Number(digits) * (UNITS[unit.toUpperCase()] ?? NaN));
  if (bytes >= 1) return bytes;
  throw new InvalidArgumentError("Write a size such as 800MB or 2GB.");
}
