// SPDX-License-Identifier: Apache-2.0
// In the place of modules that the viewer's libraries name but that nothing here calls.
export const create = undefined;
